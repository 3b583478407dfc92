"""Which methods differ on the same questions, what an update costs, and the answers that went wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.evaluation.intervals import Paired, paired
from pipeline.evaluation.splits import AFTER, BEFORE
from pipeline.evaluation.summary import Bootstrap, per_question
from pipeline.reporting.gather import Method

ORDER = (*BEFORE, *AFTER)
"""The order in which splits are shown."""


@dataclass(frozen=True)
class Comparison:
    """EM of two methods on one split, question by question."""

    first: str
    second: str
    split: str
    questions: int
    result: Paired


def split_names(methods: Sequence[Method]) -> list[str]:
    """Return the splits that any of the methods was asked, in the order of `ORDER`."""
    asked = {split for method in methods for split in method.splits}
    return [split for split in ORDER if split in asked]


def reference(methods: Sequence[Method]) -> Method:
    """Return the method that the others are held against: ours, or the best where it was not evaluated."""
    return methods[0]


def comparisons(methods: Sequence[Method], how: Bootstrap) -> list[Comparison]:
    """Return how the reference differs from every other method on each split that both were asked."""
    first = reference(methods)
    return [
        comparison
        for split in split_names(methods)
        for second in methods
        if second is not first
        for comparison in _compare(first, second, split, split, how)
    ]


def locality(methods: Sequence[Method], how: Bootstrap) -> list[Comparison]:
    """Return how each method's EM on untouched slots after the update differs from that before."""
    return [
        comparison
        for method in methods
        for comparison in _compare(method, method, "unchanged_after", "unchanged", how)
    ]


def _compare(first: Method, second: Method, split: str, against: str, how: Bootstrap) -> list[Comparison]:
    left, right = (
        per_question(method.rows[method.rows["split"] == name], ["em"])["em"]
        for method, name in ((first, split), (second, against))
    )
    shared = left.index.intersection(right.index)
    if shared.empty:
        return []
    result = paired(left[shared].to_numpy(), right[shared].to_numpy(), how.samples, how.seed)
    return [Comparison(first.name, second.name, split, len(shared), result)]


def worst(method: Method, split: str, count: int) -> pd.DataFrame:
    """Return the wrong answers of a split that are worst: given with the most confidence, furthest off.

    A method that answers wrongly while its refusal score is low misleads; one that refuses, or is half
    right, misleads less. So those come last, and ties are broken by the question's id.
    """
    rows = method.rows[(method.rows["split"] == split) & (method.rows["em"] == 0)]
    ranked = rows.sort_values(["refused", "f1", "refusal", "question"], kind="stable")
    return ranked.drop_duplicates("question").head(count)
