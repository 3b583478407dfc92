"""The benchmark of variants on the small world: figures of each, and differences question by question."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.benchmarks.variants import Variants, variants
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.test_evaluate import EVALUATE
from tests.tiny import SmallWorld, memory_settings

SIZES = (
    "letters=false,first_layer=1,rank=2,head_width=16,null_width=4,state_layer=2,fact_window=40,"
    "answer_tokens=4"
)


def test_variants_are_held_against_the_first(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(mass=1.0), world, lm, encoder)
    shaken(system)
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    out = tmp_path / "out"
    out.mkdir()
    for seed in (0, 1):
        save_adapter(system, tmp_path / str(seed) / "mine", {})
    entries = [f"ours:{SIZES},mass={mass}@mine" for mass in (1.0, 0.2)]
    asked = replace(EVALUATE, splits=["unseen", "unanswerable"])
    variants.run(  # type: ignore[attr-defined]
        Variants(entries=entries, seeds=[0, 1]), asked, memory_settings(), lm, encoder, CPU, paths, 0, out
    )
    told = json.loads((out / "variants.json").read_text())
    first, second = (told["figures"][entry] for entry in entries)
    assert first["auroc"] == second["auroc"]
    for split in ("unseen", "unanswerable"):
        assert "em_beyond_first" not in first["splits"][split]
        few, all_ = (f["splits"][split]["facts_read"]["mean"] for f in (second, first))
        assert 1 <= few < all_ == 3
    rows = [pq.read_table(out / f"{place}-0" / "answers.parquet").to_pandas() for place in (0, 1)]
    difference = (rows[1]["em"] - rows[0]["em"])[rows[0]["split"] == "unseen"].mean()
    assert second["splits"]["unseen"]["em_beyond_first"]["mean"] == pytest.approx(difference)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"variants\.entries and variants\.seeds must not be empty"):
        Variants(entries=[], seeds=[0])
    with pytest.raises(ValueError, match=r"variants\.entries must differ"):
        Variants(entries=["ours", "ours"], seeds=[0])
