from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import UserError
from pipeline.kg.facts import SCHEMAS, Graph, read_table, write_table
from tests.kg.graphs import write_graph

CHANGES = {"snapshot": [1, 1, 2], "op": ["delete", "upsert", "upsert"], "fact": [0, 2, 0]}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    values = {pa.int64(): [3, 1], pa.string(): ["é", ""]}
    lists = {pa.list_(pa.string()): [["a"], []], pa.list_(pa.int64()): [[2, 1], []]}
    columns = {field.name: (values | lists)[field.type] for field in SCHEMAS[name]}
    write_table(tmp_path, name, columns)
    assert read_table(tmp_path, name).to_pydict() == columns


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"{tmp_path}/facts\.parquet: not found; run the stage that writes it"
    ):
        read_table(tmp_path, "facts")


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, "changes", CHANGES)
    path = tmp_path / "changes.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        UserError, match=r"(?s)changes\.parquet: damaged \(.+\); delete it and run `dvc repro`"
    ):
        read_table(tmp_path, "changes")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"snapshot": [1], "fact": [0]}), tmp_path / "changes.parquet")
    with pytest.raises(UserError, match=r"changes\.parquet: lacks the column 'op'; delete it"):
        read_table(tmp_path, "changes")


def test_a_graph_without_facts_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path)
    write_table(tmp_path, "facts", {name: [] for name in SCHEMAS["facts"].names})
    with pytest.raises(UserError, match=rf"{tmp_path}: the graph has no facts; check the data choice"):
        Graph.read(tmp_path)


def test_facts_hold_from_their_upsert_to_their_delete(tmp_path: Path) -> None:
    whole = write_graph(tmp_path, changes=False)
    assert whole.last_snapshot == 0
    assert whole.live().all()
    facts = whole.facts.slice(0, 3).to_pydict() | {"snapshot": [0, 0, 1]}
    graph = Graph(whole.entities, whole.relations, pa.table(facts), pa.table(CHANGES))
    assert graph.last_snapshot == 2
    assert [graph.live(number).tolist() for number in range(3)] == [
        [True, True, False],
        [False, True, True],
        [True, True, True],
    ]


def test_a_relation_without_a_noun_goes_by_its_label(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    assert graph.nouns == graph.relation_labels
