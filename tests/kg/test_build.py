import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.facts import Graph, read_table
from pipeline.kg.sources import Entity, Extract, SourceQuestion, Triple
from pipeline.kg.splits import Splits

SPLITS = Splits(valid=0.2, test=0.3, unseen_relations=0.2)
NO_SPLITS = Splits(valid=0, test=0, unseen_relations=0)
HEADS, RELATIONS = [f"Q{i}" for i in range(12)], [f"P{i}" for i in range(25)]

TRIPLES = st.builds(
    Triple,
    st.sampled_from(HEADS),
    st.sampled_from(RELATIONS),
    st.sampled_from(HEADS),
    st.sampled_from(["", "1999"]),
)
SNAPSHOTS = st.lists(st.lists(TRIPLES, max_size=25), min_size=1, max_size=4)


def extract(*snapshots: list[Triple], questions: tuple[SourceQuestion, ...] = ()) -> Extract:
    named = {key: Entity(f"entity {key}") for key in HEADS}
    numbered = [(str(i), triples) for i, triples in enumerate(snapshots)]
    return Extract(named, {key: f"relation {key}" for key in RELATIONS}, numbered, questions)


def facts_of(graph: Graph, snapshot: int) -> set[tuple[str, str, str]]:
    keys, relations = (table["key"].to_pylist() for table in (graph.entities, graph.relations))
    rows = graph.triples[graph.live(snapshot)].tolist()
    return {(keys[head], relations[relation], keys[tail]) for head, relation, tail in rows}


def has_fact(snapshots: list[list[Triple]]) -> bool:
    return any(t.head != t.tail for triples in snapshots for t in triples)


@settings(max_examples=40, deadline=None)
@given(snapshots=SNAPSHOTS.filter(has_fact))
def test_changes_replayed_on_the_base_give_every_snapshot(tmp_path_factory, snapshots) -> None:
    out = tmp_path_factory.mktemp("tables")
    build(extract(*snapshots), SPLITS, 0, out)
    graph = Graph.read(out)
    for number, triples in enumerate(snapshots):
        wanted = {(t.head, t.relation, t.tail) for t in triples if t.head != t.tail}
        assert facts_of(graph, number) == wanted
    rows = list(zip(graph.changes["snapshot"].to_pylist(), graph.changes["op"].to_pylist(), strict=True))
    assert rows == sorted(rows)
    first = graph.facts["snapshot"].to_pylist()
    assert [number == 0 for number in first] == graph.live(0).tolist()


@settings(max_examples=40, deadline=None)
@given(snapshots=SNAPSHOTS.filter(has_fact), shuffle=st.randoms(use_true_random=False))
def test_the_same_facts_in_any_order_give_the_same_bytes(
    tmp_path_factory, snapshots, shuffle: random.Random
) -> None:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    first = build(extract(*snapshots), SPLITS, 0, one)
    for triples in snapshots:
        shuffle.shuffle(triples)
    given = extract(*snapshots)
    keys = list(given.entities.items())
    shuffle.shuffle(keys)
    assert build(Extract(dict(keys), given.relations, given.snapshots), SPLITS, 0, two) == first
    for file in sorted(one.iterdir()):
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name


@settings(max_examples=40, deadline=None)
@given(snapshots=SNAPSHOTS.filter(has_fact), seed=st.integers(0, 3))
def test_folds_are_disjoint_by_head_and_by_relation(tmp_path_factory, snapshots, seed) -> None:
    out = tmp_path_factory.mktemp("tables")
    build(extract(*snapshots), SPLITS, seed, out)
    facts = read_table(out, "facts")
    by_head: dict[int, set[str]] = {}
    by_relation: dict[int, set[bool]] = {}
    for head, relation, fold in zip(
        *(facts[name].to_pylist() for name in ("head", "relation", "fold")), strict=True
    ):
        by_relation.setdefault(relation, set()).add(fold == "unseen_relation")
        if fold != "unseen_relation":
            by_head.setdefault(head, set()).add(fold)
    assert all(len(folds) == 1 for folds in (*by_head.values(), *by_relation.values()))


def test_what_is_left_out_or_put_right_is_counted(tmp_path: Path) -> None:
    given = extract(
        [Triple("Q1", "P1", "Q2", "2001"), Triple("Q1", "P1", "Q2", "1999"), Triple("Q3", "P2", "Q3")]
    )
    given.entities["Q1"] = Entity("  a\tb ", "one\n two")
    given.entities["Q2"] = Entity("a b")
    given.entities["Q4"] = Entity("")
    given.snapshots[0][1].append(Triple("Q4", "P1", "Q1"))
    counts = build(given, NO_SPLITS, 0, tmp_path)
    assert counts["repairs"] == {
        "self-loops left out": 1,
        "repeated rows left out": 1,
        "empty labels, replaced by the key": 1,
        "entities without a fact left out": 9,
        "relations without a fact left out": 24,
        "repeated questions left out": 0,
    }
    assert (counts["labels shared"], counts["entities that share their label"]) == (1, 2)
    entities = read_table(tmp_path, "entities").to_pydict()
    assert entities["label"] == ["a b", "a b", "Q4"]
    assert entities["description"] == ["one two", "", ""]
    assert read_table(tmp_path, "facts")["start"].to_pylist() == ["1999", ""]


def test_the_report_counts_slots_that_changed_and_answers_that_can_be_guessed(tmp_path: Path) -> None:
    everything = Splits(valid=0, test=0.999999, unseen_relations=0)
    base = [
        Triple("Q1", "P1", "Q9"),
        Triple("Q2", "P1", "Q9"),
        Triple("Q3", "P1", "Q9"),
        Triple("Q4", "P1", "Q8"),
    ]
    last = [
        Triple("Q1", "P1", "Q8"),
        Triple("Q2", "P1", "Q9"),
        Triple("Q4", "P1", "Q8"),
        Triple("Q5", "P1", "Q8"),
    ]
    train = (SourceQuestion("?", (("Q4", "P1"),), (), "train"),)
    counts = build(extract(base, last, questions=train), everything, 0, tmp_path)
    slots = {"base": 3, "unchanged": 1, "updated": 1, "added": 1, "removed": 1, "unseen_relation": 0}
    assert counts["testable slots"] == slots
    assert counts["guessable"] == {"slots": 3, "by the training facts": 0, "by the commonest answer": 2}
    assert counts["snapshots"][1] == {"name": "1", "facts": 4, "added": 2, "deleted": 2}
    assert counts["relations"]["relation P1"] == {"facts": 6, "slots": 5, "held out": False}


def test_a_publishers_split_decides_the_fold_and_what_would_leak_is_dropped(tmp_path: Path) -> None:
    asked = (
        SourceQuestion("about Q1?", (("Q1", "P1"),), ("two",), "train"),
        SourceQuestion("again about Q1?", (("Q1", "P1"),), ("two",), "test"),
        SourceQuestion("about Q3?", (("Q3", "P1"),), (), "valid"),
        SourceQuestion("about Q5?", (("Q5", "P1"),), (), "train"),
        SourceQuestion("about Q5?", (("Q5", "P1"),), (), "train"),
        SourceQuestion("in two hops?", (("Q5", "P1"), ("Q1", "P1")), (), "train", "multihop"),
        SourceQuestion("no fact?", (("Q5", "P7"),), (), "train"),
        SourceQuestion("who is nobody?", (("Q99", "P1"),), (), "test", "unanswerable"),
        SourceQuestion("not unanswerable?", (("Q1", "P1"),), (), "test", "unanswerable"),
    )
    facts = [
        Triple("Q1", "P1", "Q2"),
        Triple("Q1", "P1", "Q4"),
        Triple("Q3", "P1", "Q2"),
        Triple("Q5", "P1", "Q1"),
    ]
    counts = build(extract(facts, questions=asked), NO_SPLITS, 0, tmp_path)
    rows = read_table(tmp_path, "questions").to_pylist()
    assert [(row["text"], row["split"], row["facts"], row["answers"]) for row in rows] == [
        ("about Q3?", "valid", [2], ["entity Q2"]),
        ("about Q5?", "train", [3], ["entity Q1"]),
        ("again about Q1?", "unseen", [0, 1], ["two"]),
        ("who is nobody?", "unanswerable", [], []),
    ]
    assert read_table(tmp_path, "facts")["fold"].to_pylist() == ["test", "test", "valid", "train"]
    assert counts["repairs"]["questions about what their split must not see dropped"] == 2
    assert counts["repairs"]["questions whose slot has no fact dropped"] == 1
    assert counts["repairs"]["unanswerable questions whose slot has a fact dropped"] == 1
    assert counts["repairs"]["repeated questions left out"] == 1
    assert counts["questions"] == {"train": 1, "unanswerable": 1, "unseen": 1, "valid": 1}


def test_questions_about_changed_slots_have_the_last_snapshots_answers(tmp_path: Path) -> None:
    asked = tuple(SourceQuestion(head, ((head, "P1"),), (), "test") for head in ("Q1", "Q3", "Q5"))
    two_hops = SourceQuestion("two hops", (("Q5", "P1"), ("Q1", "P1")), (), "test", "multihop")
    passing = SourceQuestion("only in between", (("Q6", "P1"),), (), "test")
    base = [Triple("Q1", "P1", "Q2"), Triple("Q5", "P1", "Q1")]
    last = [Triple("Q1", "P1", "Q4"), Triple("Q3", "P1", "Q2"), Triple("Q5", "P1", "Q1")]
    between = [Triple("Q6", "P1", "Q2")]
    counts = build(
        extract(base, between, last, questions=(*asked, two_hops, passing)), NO_SPLITS, 0, tmp_path
    )
    rows = {row["text"]: row for row in read_table(tmp_path, "questions").to_pylist()}
    assert {text: row["split"] for text, row in rows.items()} == {
        "Q1": "updated",
        "Q3": "added",
        "Q5": "unseen",
        "two hops": "updated",
    }
    assert counts["repairs"]["questions whose slot has no fact dropped"] == 1
    assert rows["Q1"]["answers"] == ["entity Q4"]
    assert rows["two hops"]["answers"] == ["entity Q4"]


def test_questions_about_held_out_relations_only_test(tmp_path: Path) -> None:
    facts = [Triple(head, relation, "Q0") for head in HEADS[1:] for relation in RELATIONS]
    splits = Splits(valid=0, test=0, unseen_relations=0.2)
    hidden = min(splits.held_out(dict.fromkeys(RELATIONS, 11), 0))
    asked = [
        SourceQuestion(split, ((f"Q{i}", hidden),), (), split) for i, split in enumerate(("train", "test"), 1)
    ]
    counts = build(extract(facts, questions=tuple(asked)), splits, 0, tmp_path)
    assert counts["questions"] == {"unseen_relation": 1}
    assert counts["folds"]["unseen_relation"] == {"facts": 55, "slots": 55}


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        (
            Triple("Q1", "P1", "Q77", source="a.tsv"),
            r"snapshot 0, a\.tsv: .*\(Q1, P1, Q77\) names the entity 'Q77'",
        ),
        (Triple("Q1", "P77", "Q2"), r"snapshot 0: .* names the relation 'P77', .* take the fact out"),
    ],
)
def test_an_unknown_key_is_named_with_its_fact(tmp_path: Path, triple: Triple, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build(extract([Triple("Q1", "P1", "Q2"), triple]), SPLITS, 0, tmp_path)


def test_an_empty_graph_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no facts; check its folder"):
        build(extract([], [Triple("Q1", "P1", "Q1")]), SPLITS, 0, tmp_path)


def test_an_unknown_split_of_a_question_is_named(tmp_path: Path) -> None:
    asked = (SourceQuestion("why?", (("Q1", "P1"),), (), "dev"),)
    with pytest.raises(UserError, match=r"'why\?' has the split 'dev'; it must be train, valid or test"):
        build(extract([Triple("Q1", "P1", "Q2")], questions=asked), SPLITS, 0, tmp_path)
