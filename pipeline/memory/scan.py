"""The scan over codes of one bit a dimension where tensors are: which have the largest estimates.

The estimate of `pipeline.memory.codes` is, but for what all codes of a question share, (Qq·s) · f with the
signs s of a code and the number f beside it. Here Qq is rounded to whole numbers from -127 to 127 first: the
sum is then a whole number, the same in whatever order and on whatever machine it is added up, so that a
question finds the same codes alone and among others. Who wants the order by Qq itself takes a few codes more
and sorts them.

Every code is compared, but of each tile of them only the largest estimate is kept. The n tiles with the
largest ones hold the n largest of all: whatever lies in another tile comes behind one of each of these. Those
tiles alone are then looked into.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.coding import WORD

MOST = 127
"""The largest whole number that a query is rounded to."""
TILE = 128
"""Codes of a tile."""
BLOCK = 1 << 14
"""Codes unpacked at once, whole tiles; a GPU without Triton takes sixteen times as many."""
ROW_BITS = 32
LAST = (1 << ROW_BITS) - 1


class Table(NamedTuple):
    """Codes where they are scanned."""

    words: Int[Tensor, "W E"]
    """Codes by words of 64 bits."""
    factors: Float[Tensor, " E"]
    """The number beside each, in 16 bits."""


class Asked(NamedTuple):
    """What is compared with the codes."""

    numbers: Int[Tensor, "B D"]
    """Queries as whole numbers in 8 bits, filled up with zeros to whole words: D = 64 W."""
    sums: Int[Tensor, " B"]
    """Their sums, in 32 bits."""


class Scan(Protocol):
    """A way through the codes."""

    def peaks(self, table: Table, asked: Asked) -> Float[Tensor, "B tiles"]:
        """Return the largest estimate of each tile of codes."""
        ...

    def within(self, table: Table, asked: Asked, tiles: Int[Tensor, "B k"]) -> Float[Tensor, "B k TILE"]:
        """Return the estimates of the codes in some tiles, others for each query; -inf behind the last."""
        ...


def rounded(queries: Float[Tensor, "B P"], words: int) -> Asked:
    """Return queries, rotated as the codes are, as whole numbers for codes of so many words."""
    largest = queries.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    numbers = (queries * (MOST / largest)).round().to(torch.int8)
    numbers = F.pad(numbers, (0, words * WORD - queries.shape[1]))
    return Asked(numbers, numbers.sum(dim=1, dtype=torch.int32))


def bits(words: Int[Tensor, "W n"]) -> Int[Tensor, "n D"]:
    """Return codes as a number 0 or 1 a bit, in 8 bits each."""
    places = torch.arange(8, dtype=torch.uint8, device=words.device)
    octets = words.contiguous().reshape(-1).view(torch.uint8).reshape(*words.shape, WORD // 8, 1)
    return ((octets >> places) & 1).transpose(0, 1).reshape(words.shape[1], len(words) * WORD)


def coded(vectors: Float[Tensor, "n P"], centre: Float[Tensor, " P"]) -> Table:
    """Return the codes of vectors around `centre`, as `pipeline.memory.coding.coded` does, unrotated."""
    moved = vectors - centre
    sums = moved.abs().sum(dim=1)
    factors = torch.where(sums > 0, (moved * moved).sum(dim=1) / sums, 0.0).half()
    whole = F.pad(moved > 0, (0, -moved.shape[1] % WORD)).reshape(len(moved), -1, WORD)
    # The last place is that of the sign: it overflows to where it belongs.
    words = (whole.long() << torch.arange(WORD, device=moved.device)).sum(dim=-1)
    return Table(words.T.contiguous(), factors)


def estimates(table: Table, asked: Asked) -> Float[Tensor, "B n"]:
    """Return the estimate of every code of `table` for every query."""
    # Sums of this many whole numbers are exact in 32 bits of floating point.
    sums = asked.numbers.float() @ bits(table.words).float().T
    return (2 * sums - asked.sums[:, None]) * table.factors.float()


class Plain:
    """Unpacks codes block by block, by whatever torch has for the device."""

    def peaks(self, table: Table, asked: Asked) -> Float[Tensor, "B tiles"]:
        """Return the largest estimate of each tile of codes."""
        parts = []
        for part in _blocks(table):
            found = estimates(part, asked)
            found = F.pad(found, (0, -found.shape[1] % TILE), value=-torch.inf)
            parts.append(found.reshape(len(found), -1, TILE).amax(dim=2))
        return torch.cat(parts, dim=1)

    def within(self, table: Table, asked: Asked, tiles: Int[Tensor, "B k"]) -> Float[Tensor, "B k TILE"]:
        """Return the estimates of the codes in some tiles, others for each query; -inf behind the last."""
        rows = tiles[:, :, None] * TILE + torch.arange(TILE, device=tiles.device)
        inside = rows.clamp(max=len(table.factors) - 1)
        found = torch.empty(rows.shape, device=rows.device)
        for place, mine in enumerate(inside):
            one = Asked(asked.numbers[place, None], asked.sums[place, None])
            part = Table(table.words[:, mine.reshape(-1)], table.factors[mine.reshape(-1)])
            found[place] = estimates(part, one).reshape(mine.shape)
        return found.masked_fill(rows >= len(table.factors), -torch.inf)


def largest(table: Table, asked: Asked, n: int, scan: Scan | None = None) -> Int[Tensor, "B n"]:
    """Return the rows of the n largest estimates of each query, largest first, then by row.

    Args:
        table: the codes.
        asked: the queries.
        n: rows wanted, at most as many as there are codes.
        scan: the way through the codes; by default what is fastest where they are.
    """
    if not n:
        return torch.empty(len(asked.sums), 0, dtype=torch.long, device=table.factors.device)
    scan = scan or fastest(table.factors.device)
    tiles = _first(scan.peaks(table, asked), n)
    found = scan.within(table, asked, tiles)
    rows = tiles[:, :, None] * TILE + torch.arange(TILE, device=tiles.device)
    return _rows(_keys(found, rows).flatten(1).topk(n, dim=1).values)


def _first(peaks: Float[Tensor, "B tiles"], n: int) -> Int[Tensor, "B k"]:
    """Return the n tiles with the largest peaks, or all; of equal ones the first ones."""
    if n >= peaks.shape[1]:
        return torch.arange(peaks.shape[1], device=peaks.device).expand(len(peaks), -1)
    best, tiles = peaks.topk(n, dim=1, sorted=False)
    tied = (peaks >= best.amin(dim=1, keepdim=True)).sum(dim=1) > n
    if bool(tied.any()):
        every = torch.arange(peaks.shape[1], device=peaks.device)
        for query in tied.nonzero()[:, 0].tolist():
            tiles[query] = _rows(_keys(peaks[query], every).topk(n).values)
    return tiles


def _blocks(table: Table) -> Iterator[Table]:
    """Yield parts of the codes."""
    size = BLOCK << 4 if table.factors.is_cuda else BLOCK
    for start in range(0, len(table.factors), size):
        part = slice(start, start + size)
        yield Table(table.words[:, part], table.factors[part])


def _keys(values: Float[Tensor, "*n"], rows: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return whole numbers that are the larger the larger a value is, then the smaller its row is."""
    order = (values + 0.0).view(torch.int32)  # -0 becomes 0
    order = order ^ ((order >> 31) & 0x7FFFFFFF)
    return (order.long() << ROW_BITS) | (LAST - rows)


def _rows(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return the rows of `keys`."""
    return LAST - (keys & LAST)


@cache
def fastest(device: torch.device) -> Scan:
    """Return the fastest way through codes on `device`: Triton's kernels on a GPU where it is installed."""
    if device.type != "cuda" or find_spec("triton") is None:
        return Plain()
    from pipeline.memory.kernels import Kernels

    return Kernels()
