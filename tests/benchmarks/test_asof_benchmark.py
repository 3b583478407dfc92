"""The benchmark of questions about a time, on the small world with dates of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.benchmarks.asof import asof
from pipeline.kg.facts import Graph
from pipeline.memory.graph import facts_of_graph
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_asof import settings
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.tiny import SmallWorld, memory_settings, small_world


def with_dates(world: SmallWorld) -> Graph:
    """Let every capital of the base have another one before it, which is in the index as well."""
    file = world.paths.tables / "facts.parquet"
    rows = pq.read_table(file).to_pylist()
    graph = world.graph
    capitals = [
        row for row in rows if row["snapshot"] == 0 and graph.relation_labels[row["relation"]] == "capital"
    ]
    for place, row in enumerate(capitals):
        row["start"], row["end"] = "1950", ""
        former = row | {"tail": capitals[place - 1]["tail"], "start": "1900", "end": "1949"}
        rows.append(former | {"id": len(rows)})
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)
    return Graph.read(world.paths.tables, relations=world.paths.kv)


def test_the_year_chooses_among_the_values_of_a_slot(
    lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    world = small_world(tmp_path / "world")
    graph = with_dates(world)
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    system = opened(ours(), world, lm, encoder)
    shaken(system)
    save_adapter(system, tmp_path / "0" / "mine", {})
    memory = KnowledgeMemory.open(paths.index, memory_settings(), system.encoder)
    memory.upsert(facts_of_graph(graph, range(len(graph.triples))))
    entry = f"ours:{SIZES}@mine"
    asked = settings(entries=[entry], questions=12)
    asof.run(asked, memory_settings(), lm, encoder, CPU, paths, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "asof.json").read_text(encoding="utf-8"))
    [figures] = told["figures"].values()
    assert list(figures) == ["as of the year", "today", "without dates"]
    assert {found["n"] for found in figures.values()} == {figures["today"]["n"]}
    assert "em that the year adds" in figures["today"]
    assert "em that the year adds" not in figures["as of the year"]
