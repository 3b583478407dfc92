"""Above which doubt a question is refused: chosen by validation questions that have an answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

from pipeline.model.system import Example

T = TypeVar("T")

BATCH = 64
"""Questions that are judged at once."""
CHANCE = 0.05
"""A kind of question may be refused as often as the share allows by chance in one case of so many."""


class Judged(NamedTuple):
    """A validation question that has an answer."""

    doubt: float
    """How little it looks like one that can be answered."""
    right: bool
    """Whether the first fact that was found for it answers it."""


def rightly(judged: Mapping[str, Sequence[Judged]]) -> dict[str, list[float]]:
    """Return the doubts of the questions of each kind whose first fact answers; of all, where none does.

    To refuse a question that would be answered by a wrong fact loses nothing.
    """
    found = {kind: [one.doubt for one in row if one.right] for kind, row in judged.items()}
    if any(found.values()):
        return {kind: row for kind, row in found.items() if row}
    return {kind: [one.doubt for one in row] for kind, row in judged.items()}


def limit(values: Mapping[str, Sequence[float]], share: float) -> float:
    """Return what at most `share` of all values are above, and of each kind no more than `spare` of them.

    Kinds are pooled: the odd question of a small kind doesn't decide for all.

    Raises:
        ValueError: there is no value.
    """
    pooled = torch.tensor([value for row in values.values() for value in row], dtype=torch.float64)
    if not len(pooled):
        raise ValueError("no validation question has an answer to choose a threshold by")
    limits = [float(pooled.quantile(1 - share, interpolation="higher"))]
    for row in values.values():
        falling = sorted(row, reverse=True)
        limits.append(falling[min(spare(len(row), share), len(row) - 1)])
    return max(limits)


def spare(count: int, share: float) -> int:
    """Return how many of `count` questions of a kind may be refused: as many as chance makes of `share`.

    The least c with P(X > c) ≤ `CHANCE` for a binomial X of `count` trials; 1 at least, unless `share` is 0.

    >>> spare(200, 0.005), spare(1000, 0.005), spare(10, 0.005), spare(1000, 0.0)
    (3, 9, 1, 0)
    """
    if share == 0:
        return 0
    below, allowed = 0.0, -1
    while below < 1 - CHANCE and allowed < count:
        allowed += 1
        ways = math.lgamma(count + 1) - math.lgamma(allowed + 1) - math.lgamma(count - allowed + 1)
        odds = allowed * math.log(share) + (count - allowed) * math.log1p(-share)
        below += math.exp(ways + odds)
    return max(1, allowed)


def by_kind(
    examples: Sequence[Example], judge: Callable[[Sequence[Example]], Sequence[T]]
) -> dict[str, list[T]]:
    """Return what is said of the questions of each kind, under "unanswerable" of those without an answer."""
    told: dict[str, list[T]] = {}
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        for example, value in zip(batch, judge(batch), strict=True):
            told.setdefault(example.kind if example.gold else "unanswerable", []).append(value)
    return told
