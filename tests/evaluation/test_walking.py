"""A walk through snapshots: an oracle is always right, and who stays at the base is not."""

from collections.abc import Sequence

import pytest

from pipeline.evaluation.methods import Answers
from pipeline.evaluation.timeline import Plan, planned
from pipeline.evaluation.walking import compared, summed, walked
from pipeline.evaluation.ways import HOPS, Snapshots
from pipeline.kg.facts import Graph, read_table
from tests.evaluation.test_timeline import plan, settings
from tests.tiny import SmallWorld


class Oracle:
    """Answers what is right in its snapshot; `follows` says whether it goes beyond the base."""

    name = "oracle"

    def __init__(self, made: Plan, follows: bool = True) -> None:
        self.given = Snapshots(made.graph)
        self.ways = {way.text: way for way in made.ways}
        self.follows, self.snapshot = follows, 0
        self.asked: list[list[str]] = []

    def update(self, graph: Graph, snapshot: int) -> None:
        assert graph is self.given.graph
        assert snapshot == self.snapshot + 1
        self.snapshot = snapshot

    def answer(self, questions: Sequence[str]) -> Answers:
        self.asked.append(list(questions))
        at = self.snapshot if self.follows else 0
        told = [self.given.answers(self.ways[question], at) or () for question in questions]
        texts = [names[-1] if names else "" for names in told]
        none: list[list[int]] = [[] for _ in texts]
        return Answers(
            texts, none, [[] for _ in texts], none, [0.0] * len(texts), [not text for text in texts]
        )


def figures(made: Plan, follows: bool) -> list[dict]:
    return summed(*walked(Oracle(made, follows), made, 3), 100)


def test_an_oracle_is_right_throughout() -> None:
    made = plan()
    base, *steps = figures(made, True)
    assert "ms a changed slot" not in base
    assert [step["slots changed"] for step in steps] == made.changed[1:]
    for step in steps:
        for hops in HOPS:
            for name, found in step[hops].items():
                for kind in set(found or {}) - {"n"}:
                    wanted = 0.0 if name in ("stale", "already") else 1.0
                    assert found[kind]["mean"] == wanted, (name, kind)
    assert steps[0]["single"]["retention"] is None
    assert steps[1]["single"]["retention"]["n"] == 5
    assert steps[1]["multi"]["efficacy"]["n"] == 4
    assert "prompt tokens an answer" not in base, "it has no language model"


def test_who_stays_at_the_base_is_wrong_about_changes_alone() -> None:
    _, *steps = figures(plan(), False)
    for step in steps:
        assert step["single"]["efficacy"]["em"]["mean"] == step["multi"]["efficacy"]["em"]["mean"] == 0.0
        assert step["single"]["insertion"]["em"]["mean"] == 0.0
        assert step["single"]["stale"]["other"]["mean"] == step["multi"]["stale"]["other"]["mean"] == 1.0
        assert step["single"]["before"]["em"]["mean"] == 1.0
        assert step["single"]["unchanged"]["em"]["mean"] == step["multi"]["unchanged"]["em"]["mean"] == 1.0
        assert step["single"]["locality"]["same"]["mean"] == 1.0


def test_on_the_small_world_an_oracle_gets_all_and_the_base_what_stays(world: SmallWorld) -> None:
    questions = read_table(world.paths.tables, "questions")
    made = planned(world.graph, questions, settings(folds=["train", "valid", "test"]), 0)
    _, right = figures(made, True)
    _, stayed = figures(made, False)
    for name in ("efficacy", "insertion", "unchanged"):
        assert right["single"][name]["em"]["mean"] == 1.0
        assert stayed["single"][name]["em"]["mean"] == float(name == "unchanged")
    assert right["single"]["efficacy"]["n"] == 3, "a capital a fold"


def test_each_question_is_asked_once_a_snapshot_in_batches() -> None:
    made = plan()
    oracle = Oracle(made)
    rows, steps = walked(oracle, made, 4)
    assert max(map(len, oracle.asked)) == 4
    assert sum(map(len, oracle.asked)) == sum(step["asked"] for step in steps)
    for due, step in zip(made.due, steps, strict=True):
        assert step["asked"] == len({one.way for one in due})
    assert len(rows) == sum(map(len, made.due))


def test_what_was_not_asked_just_before_is_no_matter_of_locality() -> None:
    made = plan()
    rows, _ = walked(Oracle(made), made, 50)
    assert {row["same"] for row in rows if row["group"] == "inserted"} == {None}
    assert {row["same"] for row in rows if row["group"] == "unchanged" and row["snapshot"]} == {1.0}


def test_methods_are_compared_question_by_question() -> None:
    made = plan()
    right, wrong = (walked(Oracle(made, follows), made, 50)[0] for follows in (True, False))
    told = compared(right, wrong, 100)
    efficacy = told["single"]["efficacy"]
    assert (efficacy["difference"]["mean"], efficacy["wins"], efficacy["losses"]) == (1.0, 8, 0)
    assert efficacy["p"] == pytest.approx(2 / 2**8)
    assert told["multi"]["unchanged"]["difference"]["mean"] == 0.0
    assert told["single"]["unchanged"]["n"] == 29, "asked in three snapshots, counted once"


def test_questions_of_several_seeds_count_once() -> None:
    rows, steps = [], []
    for seed in (0, 1):
        made = plan(seed=seed)
        answers, spent = walked(Oracle(made), made, 50)
        rows += answers
        steps += spent
    *_, last = summed(rows, steps, 100)
    assert last["single"]["efficacy"]["n"] == 4
    assert len(last["ms an answer"]) == len(last["ms a changed slot"]) == 2
