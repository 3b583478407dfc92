"""The scan over codes of one bit a dimension where tensors are: which have the largest estimates.

The estimate of `pipeline.memory.codes` is, but for what all codes of a question share, (Qq·s) · f with the
signs s of a code and the number f beside it. Here Qq is rounded to whole numbers from -127 to 127 first: the
sum is then a whole number, the same in whatever order and on whatever machine it is added up, so that a
question finds the same codes alone and among others. Who wants the order by Qq itself takes a few codes more
and sorts them.

All codes are compared. Those above a bound, which a sample of them tells, are kept; where too few or too
many are, a second bound follows, and at last a scan that keeps the best of every block.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.coding import WORD

MOST = 127
"""The largest whole number that a query is rounded to."""
SAMPLE, STRETCH = 128, 1 << 10
"""Stretches of codes, and the length of each, that the bound is told by."""
ROOM = 1 << 13
"""Codes above the bound that there is room for, a question; more where many are wanted."""
TRIES = 2
"""Bounds that are tried."""
BLOCK = 1 << 14
"""Codes unpacked at once; a GPU takes sixteen times as many."""
ROW_BITS = 32
LAST = (1 << ROW_BITS) - 1


class Table(NamedTuple):
    """Codes where they are scanned."""

    words: Int[Tensor, "W E"]
    """Codes by words of 64 bits."""
    factors: Float[Tensor, " E"]
    """The number beside each, in 16 bits."""


class Sample(NamedTuple):
    """Codes that tell a bound."""

    signs: Float[Tensor, "s D"]
    """-1 and 1, in 16 bits on a GPU."""
    factors: Float[Tensor, " s"]


class Asked(NamedTuple):
    """What is compared with the codes."""

    numbers: Int[Tensor, "B D"]
    """Queries as whole numbers in 8 bits, filled up with zeros to whole words: D = 64 W."""
    sums: Int[Tensor, " B"]
    """Their sums, in 32 bits."""


class Passed(NamedTuple):
    """Codes above a bound, in no order."""

    counts: Int[Tensor, " B"]
    """How many there are, even where there was no room for all."""
    values: Float[Tensor, "B k"]
    """Their estimates; -inf for none."""
    rows: Int[Tensor, "B k"]


Above = Callable[[Table, Asked, Float[Tensor, " B"], int], Passed]
"""Returns the codes above each question's bound, as many as there is room for."""


def rounded(queries: Float[Tensor, "B P"], words: int) -> Asked:
    """Return queries, rotated as the codes are, as whole numbers for codes of so many words."""
    largest = queries.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    numbers = torch.zeros(len(queries), words * WORD, dtype=torch.int8, device=queries.device)
    numbers[:, : queries.shape[1]] = (queries * (MOST / largest)).round().to(torch.int8)
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


def above(table: Table, asked: Asked, bounds: Float[Tensor, " B"], room: int) -> Passed:
    """Return the codes above each question's bound, unpacking them block by block."""
    device, questions = bounds.device, len(bounds)
    counts = torch.zeros(questions, dtype=torch.long, device=device)
    values = torch.full((questions, room), -torch.inf, device=device)
    rows = torch.full((questions, room), -1, device=device)
    for start, part in _blocks(table):
        found = estimates(part, asked)
        question, place = (found > bounds[:, None]).nonzero(as_tuple=True)
        before = torch.searchsorted(question, torch.arange(questions, device=device))
        column = counts[question] + torch.arange(len(question), device=device) - before[question]
        fits = column < room
        rows[question[fits], column[fits]] = place[fits] + start
        values[question[fits], column[fits]] = found[question[fits], place[fits]]
        counts += torch.bincount(question, minlength=questions)
    return Passed(counts, values, rows)


def sampled(table: Table) -> Sample:
    """Return codes out of the table, evenly spread stretches of them."""
    size, device = len(table.factors), table.factors.device
    starts = torch.linspace(0, max(0, size - STRETCH), SAMPLE, dtype=torch.float64, device=device).long()
    rows = (starts[:, None] + torch.arange(min(STRETCH, size), device=device)).reshape(-1)
    kind = torch.float16 if table.factors.is_cuda else torch.float32
    return Sample((2 * bits(table.words[:, rows]).to(kind) - 1), table.factors[rows].float())


def largest(
    table: Table, asked: Asked, n: int, sample: Sample | None = None, scan: Above | None = None
) -> Int[Tensor, "B n"]:
    """Return the rows of the n largest estimates of each query, largest first, then by row.

    Args:
        table: the codes.
        asked: the queries.
        n: rows wanted, at most as many as there are codes.
        sample: of the codes, where it is known.
        scan: what goes through the codes; by default what is fastest where they are.
    """
    size, device = len(table.factors), table.factors.device
    if size <= SAMPLE * STRETCH or 16 * n > SAMPLE * STRETCH:
        return _rows(_thorough(table, asked, n))
    scan, room, wanted = scan or fastest(device), max(ROOM, 16 * n), n
    sample = sample or sampled(table)
    best = torch.empty(len(asked.sums), n, dtype=torch.long, device=device)
    open_, some, bounds = torch.arange(len(best), device=device), asked, _expected(sample, asked, n, size)
    for _ in range(TRIES):
        passed = scan(table, some, bounds, room)
        best[open_] = _keys(passed.values, passed.rows).topk(n, dim=1).values
        many = passed.counts > room
        left = many | (passed.counts < n)
        if not bool(left.any()):
            return _rows(best)
        open_, some, wanted = open_[left], Asked(some.numbers[left], some.sums[left]), 16 * wanted
        # Of those that there was room for, n lie above the next one: so do n of all.
        higher = passed.values.topk(n + 1, dim=1).values[left, -1]
        bounds = torch.where(many[left], higher, _expected(sample, some, wanted, size))
    best[open_] = _thorough(table, some, n)
    return _rows(best)


def _expected(sample: Sample, asked: Asked, n: int, size: int) -> Float[Tensor, " B"]:
    """Return what n estimates of each query, of `size` codes, are above, and a few more, about."""
    wanted = n * len(sample.factors) / size
    place = min(len(sample.factors), math.ceil(wanted + 4 * math.sqrt(wanted) + 4))
    found = (asked.numbers.to(sample.signs.dtype) @ sample.signs.T) * sample.factors
    return found.topk(place, dim=1).values[:, -1]


def _thorough(table: Table, asked: Asked, n: int) -> Int[Tensor, "B n"]:
    """Return the keys of the n largest estimates of each query, keeping the best of block after block."""
    best = torch.empty(len(asked.sums), 0, dtype=torch.long, device=table.factors.device)
    for start, part in _blocks(table):
        found = estimates(part, asked)
        rows = torch.arange(start, start + found.shape[1], device=found.device).expand_as(found)
        best = torch.cat([best, _keys(found, rows)], dim=1)
        best = best.topk(min(n, best.shape[1]), dim=1).values
    return best


def _blocks(table: Table) -> Iterator[tuple[int, Table]]:
    """Yield parts of the codes, each with its first row."""
    size = BLOCK << 4 if table.factors.is_cuda else BLOCK
    for start in range(0, len(table.factors), size):
        part = slice(start, start + size)
        yield start, Table(table.words[:, part], table.factors[part])


def _keys(values: Float[Tensor, "B k"], rows: Int[Tensor, "B k"]) -> Int[Tensor, "B k"]:
    """Return whole numbers that are the larger the larger a value is, then the smaller its row is."""
    order = (values + 0.0).view(torch.int32)  # -0 becomes 0
    order = order ^ ((order >> 31) & 0x7FFFFFFF)
    return (order.long() << ROW_BITS) | (LAST - rows.long())


def _rows(keys: Int[Tensor, "B n"]) -> Int[Tensor, "B n"]:
    """Return the rows of `keys`."""
    return LAST - (keys & LAST)


@cache
def fastest(device: torch.device) -> Above:
    """Return what goes through codes on `device` fastest: Triton's kernels on a GPU where it is installed."""
    if device.type != "cuda" or find_spec("triton") is None:
        return above
    from pipeline.memory import kernels

    return kernels.above
