"""Settings that can't be meant are refused, with the key and the value."""

from dataclasses import replace
from typing import Any

import pytest

from tests.longcontext.baseline_settings import baselines

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("snapkv", {"queries": 0}, "queries must be at least 1, not 0"),
    ("snapkv", {"pooling": 4}, "pooling must be odd and at least 1, not 4"),
    ("per_head", {"pool": "median"}, "pool must be one of mean, max, not 'median'"),
    ("razor", {"repeats": 1}, "razor.repeats must be at least 2, not 1"),
    ("razor", {"part": 0}, "razor.part must be at least 1, not 0"),
    ("razor", {"echo": 1.5}, "razor.echo must be between 0 and 1, not 1.5"),
    ("razor", {"sinks": -1}, "razor.sinks must be 0 or more, not -1"),
    ("quest", {"page": 0}, "quest.page must be at least 1 and quest.dense 0 or more, not 0, 1"),
    ("landmarks", {"chunks": 0}, "landmarks.chunks must be at least 1, not 0"),
]


@pytest.mark.parametrize(("section", "changes", "message"), WRONG)
def test_a_value_out_of_range_is_refused(section: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        replace(getattr(baselines(), section), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "budget must be above 0, not 0.0"),
        ({"sinks": -1}, "sinks must be 0 or more, not -1"),
        ({"beta": 0.5}, "beta must be at least 1, not 0.5"),
    ],
)
def test_so_is_one_of_all_methods(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        baselines(**changes)
