"""The stage `index` on the small world: what it writes opens in both layouts and finds what it holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import UserError
from pipeline.index import index
from pipeline.mapping import Local
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder
from tests.tiny import SmallWorld, memory_settings


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_the_base_snapshot_is_found_again_in_either_layout(
    layout: str, world: SmallWorld, encoder: Encoder, tmp_path: Path
) -> None:
    index.run(encoder, memory_settings(), world.paths, Local(kept=None), tmp_path)  # type: ignore[attr-defined]
    texts = TextEncoder(encoder, "cpu")
    memory = KnowledgeMemory.open(tmp_path, memory_settings(layout=layout, entities=60, N=100), texts)
    graph = world.graph
    keys, relations = graph.entities["key"].to_pylist(), graph.relations["key"].to_pylist()
    base = {
        (keys[h], relations[r], keys[t]) for h, r, t in graph.triples[graph.live(0)].tolist()
    }  # fmt: skip
    assert {memory.fact(row).key for row in range(len(memory))} == base
    assert graph.live(0).sum() < len(graph.triples), "later facts are left to the updates"
    figures = json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))
    assert figures == {
        "encoder": "tiny-bert",
        "dimension": 32,
        "facts": len(base),
        "entities": len({key for head, _, tail in base for key in (head, tail)}),
        "relations": len({relation for _, relation, _ in base}),
        "slots": len({(head, relation) for head, relation, _ in base}),
    }
    row = 4
    head, relation, _ = memory.triples[row].tolist()
    asked = memory.slot_text(head, relation) if layout == "slot" else memory.entities.texts[head]
    vector = texts.encode([asked]) * 50
    noun = texts.encode([memory.relations.texts[relation]]) * 50
    assert row in memory.search(Query(vector, noun), 2).facts[0].tolist()
    torch.testing.assert_close(
        memory.entities.vectors[head], texts.encode([memory.entities.texts[head]])[0], atol=1e-3, rtol=0
    )


def test_the_same_tables_give_the_same_bytes(world: SmallWorld, encoder: Encoder, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        index.run(encoder, memory_settings(), world.paths, Local(kept=None), tmp_path / name)  # type: ignore[attr-defined]
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second
    assert {"vectors.safetensors", "facts.parquet", "index.json"} <= first.keys()


def test_without_tables_the_stage_says_what_to_run(
    world: SmallWorld, encoder: Encoder, tmp_path: Path
) -> None:
    missing = replace(world.paths, tables=tmp_path / "none")
    with pytest.raises(UserError, match=r"entities\.parquet: not found; run the stage that writes it"):
        index.run(encoder, memory_settings(), missing, Local(kept=None), tmp_path)  # type: ignore[attr-defined]
