"""Streams of edits, on the toy graph: what is asked, and what is made of the answers."""

from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.config import UserError
from pipeline.evaluation.methods import Answers
from pipeline.evaluation.stepwise import followed, summed
from pipeline.evaluation.streams import Streams, stream
from pipeline.kg.facts import Graph
from tests.evaluation.toys import table

LABELS = [*(f"Land{place}" for place in range(8)), *(f"City{place}" for place in range(8)), "Old", "Sea"]
OLD, SEA = 16, 17


def graph(changed: int = 6) -> Graph:
    """Countries whose capital moves from Old to a city of its own, which lies at the sea."""
    facts = [(land, 0, OLD, 0, "test") for land in range(8)]
    facts += [(land, 1, SEA, 0, "test") for land in range(8)]
    facts += [(8 + city, 2, SEA, 0, "test") for city in range(8)]
    facts += [(land, 0, 8 + land, 1, "test") for land in range(changed)]
    changes = [(1, "delete", land) for land in range(changed)]
    changes += [(1, "upsert", 24 + land) for land in range(changed)]
    nouns = [(0, "P36", "capital", "capital", ""), (1, "P47", "border", "border", "")]
    return Graph(
        table("entities", [(place, f"Q{place}", label, "", []) for place, label in enumerate(LABELS)]),
        table("relations", [*nouns, (2, "P206", "water", "water", "")]),
        table("facts", [(place, *fact[:3], "", "", "toy", *fact[3:]) for place, fact in enumerate(facts)]),
        table("changes", changes),
    )


def settings(**changes) -> Streams:
    values = {"entries": ["ours"], "lengths": [1, 3, 100], "seeds": [0], "unchanged": 4}
    values |= {"told": ["What is the {noun} of {name}?"], "other": ["{name} has which {noun}?"]}
    return Streams(**(values | {"batch_size": 3, "bootstrap_samples": 100} | changes))


class Reads:
    """Knows what holds in its snapshot; after `most` updates it answers every question about a land alike."""

    name = "reads"

    def __init__(self, graph: Graph, most: int = 100) -> None:
        self.graph, self.most, self.step, self.batches = graph, most, 0, []

    def update(self, graph: Graph, snapshot: int) -> None:
        assert graph is self.graph
        assert snapshot == self.step + 1
        self.step = snapshot

    def answer(self, questions):
        self.batches.append(len(questions))
        texts = [self._answer(question) for question in questions]
        none = [[] for _ in texts]
        return Answers(texts, none, none, none, [0.0] * len(texts), [not text for text in texts])

    def _answer(self, question: str) -> str:
        if self.step > self.most:
            return "Sea"
        if "the capital of" in question and "water" in question:
            name = question.removeprefix("the capital of ").split(" has")[0]
            return "Sea" if self._answer(f"{name} has which capital?") != "Old" else ""
        for fact in self.graph.live(self.step).nonzero()[0].tolist():
            head, relation, tail = self.graph.triples[fact].tolist()
            name, noun = self.graph.labels[head], self.graph.nouns[relation]
            if question in (f"What is the {noun} of {name}?", f"{name} has which {noun}?"):
                return self.graph.labels[tail]
        raise AssertionError(question)


def test_the_steps_add_up_to_the_edits_and_leave_the_rest_as_it_is() -> None:
    made = stream(graph(), settings(), 0)
    assert made.lengths == [1, 3, 6], "the last step takes what there is"
    for step, length in enumerate([0, *made.lengths]):
        live = made.graph.live(step)
        moved = [land for land in range(6) if live[24 + land]]
        assert len(moved) == length
        assert all(live[land] != live[24 + land] for land in range(6))
        assert live[6:24].all()
    longer = stream(graph(), settings(lengths=[1, 3]), 0)
    assert longer.lengths == [1, 3]
    assert longer.graph.last_snapshot == 2


def test_each_edit_is_asked_about_and_untouched_slots_are() -> None:
    made = stream(graph(), settings(), 0)
    kinds = [one.kind for one in made.asked]
    assert [kinds.count(kind) for kind in ("told", "other", "portable", "beside", "far")] == [6, 6, 6, 4, 4]
    for one in made.asked:
        if one.kind in ("told", "other"):
            assert one.former == ("Old",)
            assert one.answers[0].startswith("City")
        else:
            assert one.former == ()
            assert one.answers[0] in ("Sea", "Old")
        assert (one.step == 0) == (one.kind in ("beside", "far"))
    assert made.asked != stream(graph(), settings(), 1).asked, "the seed draws the order"


def test_a_method_that_follows_is_right_throughout() -> None:
    made = stream(graph(), settings(), 0)
    method = Reads(made.graph)
    rows = followed(method, made, settings())
    start, *steps = summed(rows, made.lengths, 100)
    assert start["efficacy"] is None
    assert start["beside"]["mean"] == start["far"]["mean"] == 1.0
    assert [step["edits"] for step in steps] == [1, 3, 6]
    for step in steps:
        assert step["efficacy"]["mean"] == step["generality"]["mean"] == step["portability"]["mean"] == 1.0
        assert step["locality"]["mean"] == 1.0
        assert step["stale"]["mean"] == 0.0
        assert len(step["ms an edit"]) == 1
    assert [step["retention"] and step["retention"]["n"] for step in steps] == [None, 1, 3]
    assert max(method.batches) <= 3


def test_a_method_that_breaks_down_is_seen_to() -> None:
    made = stream(graph(), settings(), 0)
    _, first, second, _ = summed(followed(Reads(made.graph, 1), made, settings()), made.lengths, 100)
    assert first["efficacy"]["mean"] == 1.0
    assert second["efficacy"]["mean"] == second["retention"]["mean"] == 0.0
    assert second["beside"]["mean"] == 1.0, "Sea is right there"
    assert second["locality"]["mean"] < 1.0
    assert second["locality"]["n"] == 8


def test_a_method_that_does_not_follow_says_what_was_right() -> None:
    made = stream(graph(), settings(), 0)

    class Stays(Reads):
        def update(self, graph, snapshot):
            pass

    *_, last = summed(followed(Stays(made.graph), made, settings()), made.lengths, 100)
    assert last["efficacy"]["mean"] == 0.0
    assert last["stale"]["mean"] == 1.0
    assert last["locality"]["mean"] == 1.0


def test_several_seeds_count_as_other_questions() -> None:
    rows = []
    for seed in (0, 1):
        made = stream(graph(), settings(), seed)
        rows += [row | {"seed": seed} for row in followed(Reads(made.graph), made, settings())]
    *_, last = summed(rows, made.lengths, 100)
    assert last["efficacy"]["n"] == 6
    assert len(last["ms an edit"]) == 2


def test_changes_that_no_question_shows_are_no_edits() -> None:
    twins = graph().entities.to_pylist()
    twins[0]["label"] = twins[1]["label"]  # two lands of one name
    twins[8 + 2]["label"] = "Old"  # a new capital of the old one's name
    changed = replace(graph(), entities=pa.Table.from_pylist(twins, schema=graph().entities.schema))
    assert stream(changed, settings(), 0).lengths == [1, 3]
    with pytest.raises(UserError, match="no slot that gets another value"):
        stream(graph(0), settings(), 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entries": []}, "entries must not be empty"),
        ({"lengths": [3, 1]}, "lengths must rise"),
        ({"lengths": [0, 1]}, "lengths must rise"),
        ({"unchanged": 0}, "unchanged, batch_size"),
        ({"told": ["What is {name}?"]}, "once, not"),
    ],
)
def test_values_out_of_range_are_errors(changes, text) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)
