"""Questions about a time, on a graph of clubs that players changed."""

from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.evaluation.asof import FOLD, AsOf, dated, periods
from pipeline.kg.facts import Graph
from tests.evaluation.toys import table

LABELS = ["Ann", "Bob", "Cyd", "Reds", "Blues", "Greens"]
FACTS: list[tuple[int, int, str, str, str]] = [
    (0, 3, "2001", "2004", FOLD),
    (0, 4, "2004", "", FOLD),
    (1, 3, "2001", "", FOLD),
    (1, 4, "", "", FOLD),  # nobody knows since when
    (2, 3, "2001", "2004", "train"),
    (2, 5, "2006", "", "train"),
]


def graph(facts: list[tuple[int, int, str, str, str]] = FACTS) -> Graph:
    rows = [(i, h, 0, t, start, end, "toy", 0, fold) for i, (h, t, start, end, fold) in enumerate(facts)]
    return Graph(
        table("entities", [(place, f"Q{place}", label, "", []) for place, label in enumerate(LABELS)]),
        table("relations", [(0, "P54", "team", "team", "")]),
        table("facts", rows),
        table("changes", []),
    )


def settings(**changes: Any) -> AsOf:
    values: dict[str, Any] = {"entries": ["ours"], "questions": 10, "seeds": [0]}
    values |= {"wordings": ["Which {noun} is given for {name}?"], "batch_size": 2, "bootstrap_samples": 50}
    return AsOf(**(values | changes))


def test_slots_whose_dates_are_known_are_asked_about_years_that_tell_them_apart() -> None:
    seen = set()
    for seed in range(20):
        for question in dated(graph(), settings(), seed):
            assert question.text == "Which team is given for Ann?"
            assert question.facts == (0, 1)
            seen.add((question.year, question.answers, question.others))
    # Not 2004, when both held: the end in a table is the last year that a fact held in.
    assert seen == {("2001", ("Reds",), ("Blues",))}
    closed = [(*FACTS[0][:3], "2003", FOLD), *FACTS[1:]]
    for seed in range(20):
        seen |= {(one.year, one.answers, one.others) for one in dated(graph(closed), settings(), seed)}
    assert ("2004", ("Blues",), ("Reds",)) in seen


def test_periods_end_where_the_last_year_closes() -> None:
    told = periods(graph(), [0, 1])
    assert [(fact.start, fact.end) for fact in told] == [("2001", "2005"), ("2004", "")]
    assert [fact.key for fact in told] == [("Q0", "P54", "Q3"), ("Q0", "P54", "Q4")]


def test_a_graph_without_such_slots_is_an_error() -> None:
    with pytest.raises(UserError, match="no held-out slot of several dated facts"):
        dated(graph(FACTS[2:]), settings(), 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entries": []}, "must not be empty"),
        ({"questions": 0}, "at least 1"),
        ({"wordings": ["{noun}?"]}, "once each"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)
