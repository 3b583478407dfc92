"""What is asked at which snapshot, on a graph of lands and cities."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import UserError
from pipeline.evaluation.metrics import normalise
from pipeline.evaluation.timeline import Plan, Timeline, effect, limited, planned
from pipeline.evaluation.ways import Snapshots
from pipeline.kg.facts import Graph
from tests.evaluation.toys import table

LANDS = 12
LABELS = (
    [f"Land{n}" for n in range(LANDS)] + [f"City{n}" for n in range(LANDS)] + ["Old", "Sea", "Lake", "Pond"]
)
OLD, SEA, LAKE, POND = range(2 * LANDS, 2 * LANDS + 4)
CAPITAL, BORDER, WATER, ANTHEM = range(4)
NOUNS = ("capital", "border", "water", "anthem")


def graph(snapshots: int = 2, fold: str = "test") -> Graph:
    """Lands 0-3 get another capital with snapshot 1, 4-7 with 2; 0 and 1 then get an anthem, 8 loses one.

    Old lies at the sea, each city at the lake, so that what lies at the capital changes too.
    """
    facts = [(land, CAPITAL, OLD, 0) for land in range(LANDS)]
    facts += [(land, BORDER, SEA, 0) for land in range(LANDS)]
    facts += [(LANDS + city, WATER, LAKE, 0) for city in range(LANDS)] + [(OLD, WATER, SEA, 0)]
    facts += [(8, ANTHEM, POND, 0)]
    changes: list[tuple[int, str, int]] = []
    for step in range(1, snapshots + 1):
        gone = [land for land in range(4 * step - 4, 4 * step)] + ([len(facts) - 1] if step == 1 else [])
        changes += [(step, "delete", fact) for fact in gone]
        come = [(land, CAPITAL, LANDS + land, step) for land in range(4 * step - 4, 4 * step)]
        come += [(step - 1, ANTHEM, POND, step)]
        changes += [(step, "upsert", len(facts) + place) for place in range(len(come))]
        facts += come
    return Graph(
        table("entities", [(n, f"Q{n}", label, "", []) for n, label in enumerate(LABELS)]),
        table("relations", [(n, f"P{n}", noun, noun, "") for n, noun in enumerate(NOUNS)]),
        table("facts", [(n, *f[:3], "", "", "toy", f[3], fold) for n, f in enumerate(facts)]),
        table("changes", changes),
    )


OWN = [
    (0, "Where does Land0 govern?", "human", [0], ["Old"], "updated"),
    (1, "Which water is at the seat of Land5?", "multihop", [5, 36], ["Sea"], "updated"),
    (2, "Where does Land9 govern?", "template", [9], ["Old"], "unseen"),
    (3, "Trained on?", "template", [1], ["Old"], "train"),
    (4, "Two things?", "template", [2], ["Old"], "unseen"),
    (5, "Two things?", "template", [3], ["Old"], "unseen"),
    (6, "Nothing?", "unanswerable", [], [], "unanswerable"),
]


def settings(**changes: Any) -> Timeline:
    values: dict[str, Any] = {"entries": ["ours"], "snapshots": 0, "slots": 0, "questions": 0, "multi_hop": 0}
    values |= {"folds": ["test"], "seeds": [0], "wordings": ["What is the {noun} of {name}?"]}
    return Timeline(**(values | {"batch_size": 3, "bootstrap_samples": 100, "folder": ""} | changes))


def plan(own: list[Any] | None = None, snapshots: int = 2, seed: int = 0, **changes: Any) -> Plan:
    return planned(graph(snapshots), table("questions", own or []), settings(**changes), seed)


def groups(made: Plan, snapshot: int, hops: str) -> dict[str, int]:
    found = [one.group for one in made.due[snapshot] if made.ways[one.way].hops == hops]
    return {group: found.count(group) for group in sorted(set(found))}


def test_each_snapshot_asks_what_it_changed_and_what_it_did_not() -> None:
    made = plan()
    # Steady: borders of all lands, capitals of lands 8-11, waters of the cities and of Old.
    assert groups(made, 0, "single") == {"coming": 4, "unchanged": 12 + 4 + 13}
    assert groups(made, 1, "single") == {"changed": 4, "coming": 4, "inserted": 1, "unchanged": 29}
    assert groups(made, 2, "single") == {"changed": 4, "earlier": 5, "inserted": 1, "unchanged": 29}
    assert groups(made, 1, "multi") == {"changed": 4, "coming": 4, "unchanged": 4}
    assert groups(made, 2, "multi") == {"changed": 4, "earlier": 4, "unchanged": 4}
    assert made.changed == [0, 6, 5]
    assert made.counted[1]["single"] == {"absent": 1, "changed": 4, "inserted": 1, "lost": 1, "same": 33}
    text = "What is the water of the capital of Land4?"
    [before, after] = [one for due in made.due for one in due if made.ways[one.way].text == text]
    assert (before.group, before.answers, before.other) == ("coming", ("Sea",), ("Lake",))
    assert (after.group, after.answers, after.other) == ("changed", ("Lake",), ("Sea",))


@pytest.mark.parametrize("own", [None, OWN])
def test_nothing_is_asked_before_its_facts_are_there(own: list[Any] | None) -> None:
    made = plan(own)
    given = Snapshots(made.graph)
    for snapshot, due in enumerate(made.due):
        assert due
        for one in due:
            assert one.answers == given.answers(made.ways[one.way], snapshot) != ()
            if one.group in ("changed", "coming"):
                assert not set(map(normalise, one.answers)) & set(map(normalise, one.other))
            if one.group == "inserted":
                assert all(other.way != one.way for early in made.due[:snapshot] for other in early)


def test_a_data_set_is_asked_in_its_own_words() -> None:
    made = plan(OWN)
    assert [way.text for way in made.ways] == [OWN[0][1], OWN[2][1], OWN[1][1]], "no other one is sure"
    assert groups(made, 1, "single") == {"changed": 1, "unchanged": 1}
    assert groups(made, 2, "multi") == {"changed": 1}
    assert groups(plan(OWN, multi_hop=-1), 2, "multi") == {}
    steady = plan(OWN[2:3])
    assert all(way.text.startswith("What is the") for way in steady.ways), "no snapshot changes its own"


def test_sizes_are_kept_to() -> None:
    made = plan(questions=2, multi_hop=1, snapshots=2)
    assert groups(made, 1, "single") == {"changed": 2, "coming": 2, "inserted": 1, "unchanged": 2}
    assert groups(made, 2, "multi") == {"changed": 1, "earlier": 1, "unchanged": 1}
    assert made != plan(questions=2, multi_hop=1, seed=1)
    assert made.ways == plan(questions=2, multi_hop=1).ways, "the seed draws them"


def test_a_walk_may_end_early() -> None:
    made = planned(graph(), table("questions", []), settings(snapshots=1), 0)
    assert len(made.due) == len(made.changed) == 2
    assert "coming" not in groups(made, 1, "single")


def test_fewer_slots_may_change() -> None:
    made = plan(slots=3)
    assert sum(made.changed) == 3
    given = Snapshots(made.graph)
    moved = sum(
        groups(made, step, "single").get(group, 0) for step in (1, 2) for group in ("changed", "inserted")
    )
    assert moved + sum(made.counted[step]["single"].get("lost", 0) for step in (1, 2)) == 3
    assert given.live[0].tolist() == Snapshots(graph()).live[0].tolist(), "the base is what it was"
    whole = Snapshots(graph())
    assert limited(whole, [], 11, np.random.default_rng(0)) is whole


def test_effects_are_told_apart() -> None:
    assert effect(("A",), ("a",)) == "same"
    assert effect((), ()) == "absent"
    assert effect((), ("A",)) == "inserted"
    assert effect(("A",), ()) == "lost"
    assert effect(("A",), ("A", "B")) == "partly"
    assert effect(("A",), ("B",)) == "changed"
    assert effect(None, ("B",)) == effect(("B",), None) == "forked"


def test_data_that_does_not_change_is_an_error() -> None:
    with pytest.raises(UserError, match=r"one snapshot only.*choose data with several, such as data=world"):
        plan(snapshots=0)
    with pytest.raises(UserError, match=r"no question is about what the snapshots change; raise timeline"):
        plan(folds=["valid"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entries": []}, "timeline.entries must not be empty"),
        ({"questions": -1}, "questions must be 0 or more"),
        ({"multi_hop": -2}, "multi_hop -1 or more"),
        ({"batch_size": 0}, "batch_size and bootstrap_samples must be at least 1"),
        (
            {"folds": ["tests"]},
            "timeline.folds must be some of train, valid, test, unseen_relation, not tests",
        ),
        ({"wordings": ["What is {name}?"]}, "once each, not"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)
