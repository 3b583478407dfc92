"""The benchmark of a timeline on the small world: what is written, and what the methods are worth."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.benchmarks.timeline import snapshot_names, timeline
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_timeline import settings
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.tiny import SmallWorld, memory_settings


@pytest.fixture
def told(world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path) -> dict:
    system = opened(ours(), world, lm, encoder)
    shaken(system)
    save_adapter(system, tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    entries = [f"ours:{SIZES}@mine", "closed_book", "majority"]
    asked = settings(entries=entries, batch_size=20, folds=["train", "test"])
    timeline.run(asked, memory_settings(), lm, encoder, CPU, paths, tmp_path)  # type: ignore[attr-defined]
    return json.loads((tmp_path / "timeline.json").read_text(encoding="utf-8"))


def test_every_entry_goes_through_the_same_snapshots(told: dict, tmp_path: Path) -> None:
    assert (tmp_path / "timeline.png").stat().st_size > 1000
    assert [one["name"] for one in told["snapshots"]] == ["0", "1"]
    mine, bare, guessed = told["figures"].values()
    for base, last in (mine, bare, guessed):
        assert last["slots changed"] == told["snapshots"][1]["slots changed"] > 0
        assert base["single"]["unchanged"]["n"] == last["single"]["unchanged"]["n"] > 0
        asked = {name: found and found["n"] for name, found in last["single"].items()}
        assert asked == {name: found and found["n"] for name, found in mine[1]["single"].items()}
    assert bare[1]["single"]["locality"]["same"]["mean"] == 1.0, "what it says can't change"
    assert guessed[1]["single"]["locality"]["same"]["mean"] == 1.0
    assert mine[1]["prompt tokens an answer"][0] > 1
    assert "prompt tokens an answer" not in guessed[1]
    assert set(told["paired"]) == {"closed_book", "majority"}
    rows = pq.read_table(tmp_path / "timeline.parquet").to_pandas()
    assert set(rows["entry"]) == set(told["figures"])
    assert rows.groupby("entry").size().nunique() == 1


def test_snapshots_without_names_are_numbered(tmp_path: Path) -> None:
    assert snapshot_names(tmp_path, 2) == ["0", "1"]
    (tmp_path / "ingest.json").write_text('{"snapshots": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}')
    assert snapshot_names(tmp_path, 2) == ["a", "b"]
