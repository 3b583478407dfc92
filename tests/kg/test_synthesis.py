"""Rows of both generators, their metrics, and the leakage check."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import UserError
from pipeline.kg.facts import SCHEMAS, Graph
from pipeline.kg.leakage import commonest_tails, leakage
from pipeline.kg.synthesis import diversity, fitting, kg2kv, mirrored
from pipeline.kg.synthetic import synthetic
from tests.evaluation.toys import table
from tests.kg.graphs import synthesis, write_graph

LABELS = ["France", "Paris", "Peru", "Lima", "Ann", "Bob"]
FACTS = [(0, 0, 1), (2, 0, 3), (4, 1, 5), (5, 1, 4), (2, 2, 3)]
NOUNS = (["capital", "spouse", "city"], ["country", "spouse", "country"])


def toy(folds: tuple[str, ...] = ("train", "test", "train", "train", "train")) -> Graph:
    described = "a country in Europe"
    entities = [(i, f"Q{i}", label, described if i == 0 else "", []) for i, label in enumerate(LABELS)]
    relations = [(i, f"P{i}", f"relation {i}", "", "") for i in range(3)]
    facts = [(i, h, r, t, "", "", "", 0, folds[i]) for i, (h, r, t) in enumerate(FACTS)]
    return Graph(
        table("entities", entities),
        table("relations", relations),
        table("facts", facts),
        pa.Table.from_pylist([], schema=SCHEMAS["changes"]),
    )


def test_rows_of_both_sides_and_descriptions() -> None:
    rows = kg2kv(toy(), NOUNS, synthesis().rows, ["What is the {noun} of {name}?"], 0).to_pylist()
    found = [(row["fact"], row["side"], row["key"], row["value"], row["question"]) for row in rows]
    what = "the description of France"
    assert found[:5] == [
        (-1, "description", what, "a country in Europe", f"What is {what}?"),
        (0, "tail", "the capital of France", "Paris", "What is the capital of France?"),
        (0, "head", "the country of Paris", "France", "What is the country of Paris?"),
        (1, "tail", "the capital of Peru", "Lima", "What is the capital of Peru?"),
        (1, "head", "the country of Lima", "Peru", "What is the country of Lima?"),
    ]
    assert len(found) == 1 + 2 * len(FACTS)


def test_diversity_by_hand() -> None:
    # capital, spouse, city and country, asked of five facts.
    rows = kg2kv(toy(), NOUNS, synthesis().rows, ["{noun} {name}"], 0)
    assert diversity(toy(), NOUNS, rows) == (4, 5)
    tails = kg2kv(toy(), NOUNS, synthesis("rows.sides=tail").rows, ["{noun} {name}"], 0)
    assert diversity(toy(), NOUNS, tails) == (3, 5)


def test_random_side_gives_one_row_a_fact(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    rows = kg2kv(graph, (graph.nouns, graph.nouns), synthesis("rows.sides=random").rows, ["{noun} {name}"], 0)
    facts = [fact for fact in rows["fact"].to_pylist() if fact >= 0]
    assert sorted(facts) == list(range(graph.facts.num_rows))
    assert 0.35 < rows["side"].to_pylist().count("tail") / len(facts) < 0.65


def test_an_entity_names_one_row_where_asked(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    config = synthesis("rows.entity_once=true", "rows.sides=tail", "rows.description_words_least=19")
    rows = kg2kv(graph, (graph.nouns, graph.nouns), config.rows, ["{noun} {name}"], 0)
    heads = graph.triples[rows["fact"].to_numpy(), 0]
    assert sorted(heads) == sorted(set(graph.triples[:, 0].tolist()))


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("rows.name_characters=3", {2, 3}),
        ("rows.dropped_relations=[relation 1]", {0, 1, 4}),
        ("rows.key_words=1", set()),
    ],
)
def test_filters(override: str, kept: set[int]) -> None:
    rows = kg2kv(toy(), NOUNS, synthesis(override, "rows.sides=tail").rows, ["{noun} {name}"], 0)
    assert {fact for fact in rows["fact"].to_pylist() if fact >= 0} == kept


def test_fitting_counts_words_and_characters() -> None:
    labels = pa.array(["", "one", "one two", " two  words ", "abcdefgh"])
    assert fitting(labels, 2, 8).tolist() == [False, True, True, False, True]
    assert fitting(labels, 2, 20, least=2).tolist() == [False, False, True, True, False]


def test_mirrored_relations() -> None:
    assert mirrored(toy()).tolist() == [False, True, False]


@pytest.mark.parametrize("names", ["invented", "given"])
def test_synthetic_rows_have_three_attributes_a_name(names: str) -> None:
    config = synthesis(f"synthetic.names={names}", "synthetic.count=5").synthetic
    rows = synthetic(toy(), config, ["What is the {noun} of {name}?"], 0).to_pylist()
    assert len(rows) == 15 == len({row["key"] for row in rows})
    assert {row["key"].split(" of ")[0] for row in rows} == {
        "the description",
        "the objectives",
        "the purpose",
    }
    assert {row["question"] for row in rows} == {f"What is {row['key']}?" for row in rows}
    assert not any("{" in row["value"] for row in rows)
    given = {row["key"].split(" of ")[1] for row in rows} <= set(LABELS)
    assert given == (names == "given")


def test_a_value_that_names_no_word_list_is_an_error() -> None:
    values = {"values": {"description": ["a {colour} thing"], "objectives": ["x"], "purpose": ["x"]}}
    with pytest.raises(UserError, match=r"synthetic.values.description names \{colour\}.*add the list"):
        synthetic(toy(), synthesis(synthetic=values).synthetic, ["{noun} {name}"], 0)


def test_leakage_by_hand() -> None:
    graph = toy()
    names = ("id", "text", "kind", "facts", "answers", "split")
    rows = [
        (0, "capital of Peru?", "template", [1], ["Lima"], "unseen"),
        (1, "capital of France, i.e. of Paris?", "template", [0], ["Paris"], "unseen"),
        (2, "trained", "template", [0], ["Paris"], "train"),
        (3, "nobody", "unanswerable", [], [], "unanswerable"),
    ]
    questions = pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], schema=SCHEMAS["questions"]
    )
    # Peru and Lima are joined by a training fact of another relation; Paris is the commonest capital.
    assert leakage(graph, questions) == {
        "unseen": {
            "questions": 2,
            "answer_in_training": 0.5,
            "slot_in_training": 0.5,
            "pair_in_training": 1.0,
            "commonest_answer": 0.5,
            "answer_in_question": 0.5,
        }
    }


def test_commonest_tail_breaks_ties_by_id() -> None:
    triples = np.array([(0, 0, 9), (1, 0, 7), (2, 1, 3), (3, 1, 3), (4, 1, 2)])
    assert commonest_tails(triples) == {0: 7, 1: 3}
