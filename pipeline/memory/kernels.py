"""The scan of `pipeline.memory.scan` by Triton's kernels, which unpack codes where they are compared.

Of each 32 bits of a code, eight shifts and a mask make 32 numbers of 8 bits, which tensor cores multiply
with those of many queries. Estimates stay in registers: what leaves them is the largest one of a tile.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.scan import TILE, Asked, Table

WIDTHS = (16, 64, 128)
"""Queries that a program compares a tile with, filled up to these; with more its sums outgrow registers."""
WARPS = 4


class Kernels:
    """Goes through codes on a GPU."""

    def peaks(self, table: Table, asked: Asked) -> Float[Tensor, "B tiles"]:
        """Return the largest estimate of each tile of codes."""
        (words, size), questions = table.words.shape, len(asked.sums)
        width = next(one for one in WIDTHS if one >= questions or one == WIDTHS[-1])
        groups, tiles = triton.cdiv(questions, width), triton.cdiv(size, TILE)
        more = groups * width - questions
        peaks = torch.empty(questions, tiles, device=table.words.device)
        _peaks[(groups * tiles,)](
            _halves(table), table.factors, _unpacked(asked, more),
            F.pad(asked.sums, (0, more)), peaks, size, questions, groups, tiles,
            words, TILE, width, num_warps=WARPS,
        )  # fmt: skip
        return peaks

    def within(self, table: Table, asked: Asked, tiles: Int[Tensor, "B k"]) -> Float[Tensor, "B k TILE"]:
        """Return the estimates of the codes in some tiles, others for each query; -inf behind the last."""
        words, size = table.words.shape
        found = torch.empty(*tiles.shape, TILE, device=tiles.device)
        _within[(tiles.numel(),)](
            _halves(table), table.factors, _unpacked(asked), asked.sums, tiles.contiguous(), found,
            size, tiles.shape[1], words, TILE, num_warps=WARPS,
        )  # fmt: skip
        return found


def _halves(table: Table) -> Int[Tensor, "W E2"]:
    """Return the words in halves of 32 bits, the lower one first."""
    assert table.words.is_contiguous()
    return table.words.view(torch.int32)


def _unpacked(asked: Asked, more: int = 0) -> Int[Tensor, "Q D128"]:
    """Return the numbers in the order that bits are unpacked in: of four bytes the same bit, then the next.

    Filled up with zeros to pairs of words, and by `more` queries.
    """
    numbers = asked.numbers.reshape(len(asked.sums), -1, 4, 8).transpose(2, 3).reshape(len(asked.sums), -1)
    return F.pad(numbers, (0, -numbers.shape[1] % 128, 0, more)).contiguous()


@triton.jit
def _bits(halves, size, row, inside, first, words: tl.constexpr, tile: tl.constexpr):
    """Return 128 bits of the codes of a tile, from the word `first` on, as numbers: [tile, 128].

    Behind the last word it comes again; queries have zeros there.
    """
    half = tl.arange(0, 4)
    word = tl.minimum(first + half // 2, words - 1)
    at = (tl.cast(size, tl.int64) * word[None, :] + row[:, None]) * 2 + (half % 2)[None, :]
    part = tl.load(halves + at, mask=inside[:, None], other=0)
    four = (part[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 0x01010101
    even = tl.join(four.to(tl.int8), (four >> 16).to(tl.int8))
    odd = tl.join((four >> 8).to(tl.int8), (four >> 24).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [tile, 128])


@triton.jit
def _peaks(
    halves, factors, numbers, sums, peaks, size, questions, groups, tiles,
    words: tl.constexpr, tile: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Compare the codes of a tile with `width` queries and write each one's largest estimate."""
    question = tl.program_id(0) % groups * width + tl.arange(0, width)
    at = tl.program_id(0) // groups
    row = at * tile + tl.arange(0, tile)
    inside = row < size
    numbers += question[None, :] * ((words + 1) // 2 * 128) + tl.arange(0, 128)[:, None]
    total = tl.zeros([tile, width], tl.int32)
    for first in tl.static_range(0, words, 2):
        asked = tl.load(numbers + first * 64)
        total = tl.dot(_bits(halves, size, row, inside, first, words, tile), asked, total, out_dtype=tl.int32)
    factor = tl.load(factors + row, mask=inside, other=0).to(tl.float32)
    value = (2 * total - tl.load(sums + question)[None, :]).to(tl.float32) * factor[:, None]
    value = tl.where(inside[:, None], value, float("-inf"))
    tl.store(peaks + question.to(tl.int64) * tiles + at, tl.max(value, 0), mask=question < questions)


@triton.jit
def _within(
    halves, factors, numbers, sums, tiles, found, size, count,
    words: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write the estimates of the codes of a tile for the query that it is one of `count` tiles of."""
    query = tl.program_id(0) // count
    place = tl.arange(0, tile)
    row = tl.load(tiles + tl.program_id(0)) * tile + place
    inside = row < size
    numbers += query * ((words + 1) // 2 * 128) + tl.arange(0, 128)
    total = tl.zeros([tile], tl.int32)
    for first in tl.static_range(0, words, 2):
        asked = tl.load(numbers + first * 64).to(tl.int32)
        code = _bits(halves, size, row, inside, first, words, tile).to(tl.int32)
        total += tl.sum(code * asked[None, :], 1)
    factor = tl.load(factors + row, mask=inside, other=0).to(tl.float32)
    value = (2 * total - tl.load(sums + query)).to(tl.float32) * factor
    value = tl.where(inside, value, float("-inf"))
    tl.store(found + tl.program_id(0).to(tl.int64) * tile + place, value)
