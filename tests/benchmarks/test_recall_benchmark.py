"""The recall benchmark on the small world."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.recall import Recall, recall, searching
from pipeline.config import ConfigError, UserError
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_grounding import settings as grounding
from tests.model.tiny_systems import CPU, opened, ours
from tests.tiny import SmallWorld, memory_settings


def settings(**changes: Any) -> Recall:
    values: dict[str, Any] = {
        "method": f"ours:{SIZES}@mine",
        "generated": [0, 40],
        "depths": [1, 12],
        "timed": 2,
    }
    values |= {"backends": ["exact", "codes:rescored=9999", "codes:rescored=1", "hnsw:links=8"]}
    return Recall(**(values | changes))


def test_every_backend_is_measured_at_every_size(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    asked = settings()
    recall.run(  # type: ignore[attr-defined]
        asked, grounding(questions=5), memory_settings(entities=10), lm, encoder, CPU, paths, tmp_path
    )
    told = json.loads((tmp_path / "recall.json").read_text())
    rows = told["figures"]
    assert [(row["generated"], row["backend"]) for row in rows] == [
        (size, backend) for size in (0, 40) for backend in asked.backends
    ]
    most = int(world.graph.live(0).sum())
    for row in rows:
        assert row["facts"] == [most + row["generated"]]
        assert row["questions"] == rows[0]["questions"] > 0
        assert 0 <= row["recall"]["1"]["mean"] <= row["recall"]["12"]["mean"] <= 1
        assert row["one question"][0]["p50 ms"] > 0
        assert row["recall, by the fine score"]["12"] == row["recall"]["12"], "it looks at the same facts"
    for exact, codes in ((rows[0], rows[1]), (rows[4], rows[5])):
        assert exact["recall"] == codes["recall"], "all vectors are compared"
    assert (tmp_path / "recall.png").stat().st_size > 1000


def test_what_can_not_be_is_named(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"memory\.backend must be one of exact, codes"):
        searching("lsh", memory_settings())
    with pytest.raises(ConfigError, match="wide"):
        searching("codes:wide=2", memory_settings())
    for changes in ({"backends": []}, {"generated": []}, {"depths": []}, {"timed": 0}, {"generated": [-1]}):
        with pytest.raises(ValueError, match="recall"):
            settings(**changes)
    paths = world.indexed(encoder)
    with pytest.raises(UserError, match=r"recall\.method: rag has no queries of its own; choose ours"):
        recall.run(  # type: ignore[attr-defined]
            settings(method="rag"), grounding(), memory_settings(), lm, encoder, CPU, paths, tmp_path
        )
