"""The benchmark of streams on the small world: memories follow, what reads nothing doesn't."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.benchmarks.streams import streams
from pipeline.model.adapter import save_adapter
from pipeline.reporting.measured import measured
from pipeline.reporting.sections import SECTIONS
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_streams import settings
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.tiny import SmallWorld, memory_settings


def test_every_entry_goes_through_the_same_stream(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(), world, lm, encoder)
    shaken(system)
    save_adapter(system, tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    entry = f"ours:{SIZES}@mine"
    asked = settings(entries=[entry, "majority"], lengths=[1, 1000], batch_size=20)
    streams.run(asked, memory_settings(), lm, encoder, CPU, paths, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "streams.json").read_text(encoding="utf-8"))
    assert (tmp_path / "streams.png").stat().st_size > 1000
    assert list(told["figures"]) == [entry, "majority"]
    mine, guessed = told["figures"].values()
    assert [step["edits"] for step in mine] == [step["edits"] for step in guessed]
    assert mine[-1]["edits"] > 1
    assert guessed[-1]["locality"]["mean"] == 1.0, "what was counted stays as it was"
    assert mine[-1]["efficacy"]["n"] == guessed[-1]["efficacy"]["n"] == mine[-1]["edits"] - 1
    rows = pq.read_table(tmp_path / "streams.parquet").to_pandas()
    last = rows[(rows["entry"] == entry) & (rows["step"] == 2) & (rows["since"] == 2)]
    assert last.loc[last["kind"] == "told", "em"].mean() == mine[-1]["efficacy"]["mean"]
    section = next(section for section in SECTIONS if section.name == "streams")
    [shown] = measured([section], tmp_path)
    assert len(shown.table.rows) == len(mine) + len(guessed), "the report shows what was written"
