"""Why facts are missed: twins, aliases, names that are not there."""

import pyarrow as pa
import pytest

from pipeline.evaluation.misses import ABSENT, ALIAS, CAUSES, OTHER, TWIN, Misses
from pipeline.kg.facts import SCHEMAS, Graph
from tests.evaluation.toys import graph


def named() -> Graph:
    """The toy graph, where Cland has an alias and Borland is called as Aland is, but for the case."""
    toy = graph()
    entities = toy.entities.to_pylist()
    entities[1]["label"] = "aland"
    entities[2]["aliases"] = ["The C. Land"]
    table = pa.Table.from_pylist(entities, schema=SCHEMAS["entities"])
    return Graph(table, toy.relations, toy.facts, toy.changes)


@pytest.mark.parametrize(
    ("text", "fact", "cause"),
    [
        ("What is the capital of Aland?", 0, TWIN),
        ("What is the capital of CLAND?", 4, OTHER),
        ("the c land, its capital?", 4, ALIAS),
        ("What is the capital of Clandia?", 4, ABSENT),
    ],
)
def test_the_cause_is_what_the_names_say(text: str, fact: int, cause: str) -> None:
    assert Misses(named()).cause(text, fact) == cause


def test_every_question_is_counted_once() -> None:
    asked = [("What is spoken in Aland?", 2), ("Cland?", 5), ("the c land", 5), ("Cland?", 4)]
    found = Misses(named()).count(asked)
    assert list(found) == list(CAUSES)
    assert found == {TWIN: 1, ALIAS: 1, ABSENT: 0, OTHER: 2}
