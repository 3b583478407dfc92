"""The scan of `pipeline.memory.scan` in Triton's kernels, which unpack codes where they are compared.

Few queries are compared by their bits: a whole number q of 8 bits is the sum of 2^p q_p, with -2^7 for the
last, so that q·b is a sum of counts of bits that a code b shares with the eight planes q_p. Many are compared
by a product of 8-bit numbers on the tensor cores. Both give the same whole number.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from triton.language.extra import libdevice

from pipeline.memory.scan import Asked, Passed, Table

PLANES = 8
"""Bits of a whole number of a query."""
FEW = 3
"""Queries up to which bits are counted: each costs as much as the first, a product hardly more for many."""
CODES = 1024
"""Codes that a program counts the bits of."""
SHAPES = ((128, 16, 4), (128, 32, 4), (128, 64, 8), (128, 128, 8))
"""Codes and queries that a program multiplies, and its warps: none keeps its sums outside registers."""


def above(table: Table, asked: Asked, bounds: Float[Tensor, " B"], room: int) -> Passed:
    """Return the codes above each question's bound; see `pipeline.memory.scan`."""
    assert table.words.is_contiguous()
    if len(bounds) <= FEW:
        return counted(table, asked, bounds, room)
    return multiplied(table, asked, bounds, room)


def counted(table: Table, asked: Asked, bounds: Float[Tensor, " B"], room: int) -> Passed:
    """Return the codes above each question's bound, by counting bits."""
    words, size = table.words.shape
    kept = _empty(bounds, room)
    _count[(len(bounds) * triton.cdiv(size, CODES),)](
        table.words, table.factors, planes(asked.numbers), asked.sums, bounds.contiguous(), *kept, size, room,
        len(bounds), words, CODES, triton.knobs.runtime.interpret,
    )  # fmt: skip
    return _passed(*kept)


def multiplied(
    table: Table,
    asked: Asked,
    bounds: Float[Tensor, " B"],
    room: int,
    shape: tuple[int, int, int] | None = None,
) -> Passed:
    """Return the codes above each question's bound, by products."""
    words, size = table.words.shape
    tile, width, warps = shape or next(one for one in SHAPES if one[1] >= len(bounds) or one == SHAPES[-1])
    groups = triton.cdiv(len(bounds), width)
    more = groups * width - len(bounds)
    # Bits lie in the order in which they are unpacked: of each four bytes the same bit, one after the other.
    numbers = asked.numbers.reshape(len(bounds), -1, 4, 8).transpose(2, 3).reshape(len(bounds), -1)
    kept = _empty(bounds, room)
    _multiply[(groups * triton.cdiv(size, tile),)](
        table.words, table.factors, F.pad(numbers, (0, 0, 0, more)), F.pad(asked.sums, (0, more)),
        F.pad(bounds, (0, more), value=torch.inf), *kept, size, room, groups, words, tile, width,
        num_warps=warps,
    )  # fmt: skip
    return _passed(*kept)


def _empty(bounds: Float[Tensor, " B"], room: int) -> tuple[Tensor, Tensor, Tensor]:
    questions, device = len(bounds), bounds.device
    return (
        torch.zeros(questions, dtype=torch.int32, device=device),
        torch.full((questions, room), -torch.inf, device=device),
        torch.full((questions, room), -1, dtype=torch.int32, device=device),
    )


def _passed(counts: Tensor, values: Tensor, rows: Tensor) -> Passed:
    return Passed(counts.long(), values, rows.long())


def planes(numbers: Int[Tensor, "B D"]) -> Int[Tensor, "B 8 W2"]:
    """Return bit p of each number, 32 of them a word, for p from 0 to 7."""
    places = torch.arange(PLANES, device=numbers.device)
    bits = (numbers.long()[:, None, :] >> places[:, None]) & 1
    halves = bits.reshape(len(numbers), PLANES, -1, 32) << torch.arange(32, device=numbers.device)
    return halves.sum(dim=-1).to(torch.int32)


@triton.jit
def _popcount(word, plain: tl.constexpr):
    """Return how many bits of a word are set; `plain` where there is no instruction for it."""
    if plain:
        word = word.to(tl.uint32, bitcast=True)
        word = word - ((word >> 1) & 0x55555555)
        word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
        word = (word + (word >> 4)) & 0x0F0F0F0F
        count = ((word * 0x01010101) >> 24).to(tl.int32)
    else:
        count = libdevice.popc(word)
    return count


@triton.jit
def _count(
    words, factors, bits, sums, bounds, counts, values, rows, size, room, questions,
    wide: tl.constexpr, many: tl.constexpr, plain: tl.constexpr,
):  # fmt: skip
    """Compare `many` codes with one query by counting bits, and keep those above its bound."""
    question = tl.program_id(0) % questions
    row = tl.program_id(0) // questions * many + tl.arange(0, many)
    inside = row < size
    bits += question * 8 * 2 * wide
    total = tl.zeros([many], tl.int32)
    for word in tl.static_range(wide):
        both = tl.load(words + tl.cast(size, tl.int64) * word + row, mask=inside, other=0)
        low, high = both.to(tl.int32), (both >> 32).to(tl.int32)
        for plane in tl.static_range(8):
            one = tl.load(bits + plane * 2 * wide + 2 * word)
            other = tl.load(bits + plane * 2 * wide + 2 * word + 1)
            shared = _popcount(low & one, plain) + _popcount(high & other, plain)
            if plane == 7:
                total -= shared << plane
            else:
                total += shared << plane
    factor = tl.load(factors + row, mask=inside, other=0).to(tl.float32)
    value = (2 * total - tl.load(sums + question)).to(tl.float32) * factor
    hit = inside & (value > tl.load(bounds + question))
    place = tl.atomic_add(counts + question + tl.zeros([many], tl.int32), 1, mask=hit, sem="relaxed")
    kept = hit & (place < room)
    tl.store(values + question * room + place, value, mask=kept)
    tl.store(rows + question * room + place, row, mask=kept)


@triton.jit
def _multiply(
    words, factors, numbers, sums, bounds, counts, values, rows, size, room, groups,
    wide: tl.constexpr, tile: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Compare `tile` codes with `width` queries by a product, and keep those above the queries' bounds."""
    question = tl.program_id(0) % groups * width + tl.arange(0, width)
    row = tl.program_id(0) // groups * tile + tl.arange(0, tile)
    inside = row < size
    shift, place = tl.arange(0, 8), tl.arange(0, 32)
    total = tl.zeros([tile, width], tl.int32)
    for word in tl.static_range(wide):
        both = tl.load(words + tl.cast(size, tl.int64) * word + row, mask=inside, other=0)
        for half in tl.static_range(2):
            part = (both >> (32 * half)).to(tl.int32)
            four = (part[:, None] >> shift[None, :]) & 0x01010101
            even = tl.join(four.to(tl.int8), (four >> 16).to(tl.int8))
            odd = tl.join((four >> 8).to(tl.int8), (four >> 24).to(tl.int8))
            bits = tl.reshape(tl.join(even, odd), [tile, 32])
            column = word * 64 + half * 32 + place
            asked = tl.load(numbers + question[None, :] * (64 * wide) + column[:, None])
            total = tl.dot(bits, asked, total, out_dtype=tl.int32)
    factor = tl.load(factors + row, mask=inside, other=0).to(tl.float32)
    value = (2 * total - tl.load(sums + question)[None, :]).to(tl.float32) * factor[:, None]
    hit = inside[:, None] & (value > tl.load(bounds + question)[None, :])
    if tl.max(tl.max(hit.to(tl.int32), 1), 0) > 0:
        slot = question[None, :] + tl.zeros([tile, width], tl.int32)
        at = tl.atomic_add(counts + slot, 1, mask=hit, sem="relaxed")
        kept = hit & (at < room)
        tl.store(values + slot * room + at, value, mask=kept)
        tl.store(rows + slot * room + at, row[:, None] + tl.zeros([tile, width], tl.int32), mask=kept)
