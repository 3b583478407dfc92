"""The benchmark of speed on the small world: every way is timed, and its settings are checked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.speed import Speed, drawn, speed
from pipeline.config import UserError
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.model.tiny_systems import CPU, opened, ours
from tests.tiny import SmallWorld, memory_settings

PARTS = {"prompt", "finding", "reading", "finding, as written"}


def settings(**changes: Any) -> Speed:
    values: dict[str, Any] = {"entries": [f"ours:{SIZES}@mine"], "seed": 0, "split": "unseen"}
    values |= {"batch_sizes": [1, 3], "prompt_tokens": 64, "answer_tokens": 5, "fact_tokens": [40, 150]}
    values |= {"repeats": 2, "steps": 3, "backend": "", "bootstrap_samples": 20}
    values |= {"compared": 4, "streamed": 5, "ahead": False}
    return Speed(**(values | changes))


@pytest.mark.parametrize("ahead", [False, True])
def test_every_way_is_timed(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path, ahead: bool
) -> None:
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "adapters" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "adapters")
    speed.run(settings(ahead=ahead), memory_settings(), lm, encoder, CPU, paths, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "speed.json").read_text())
    [found] = told["figures"].values()
    assert found.keys() == {"1", "3", "streamed"}
    streams = found.pop("streamed")
    assert 0 < streams["answers"] <= 5
    assert {name for name in streams if name.endswith("ratio")} == {
        "streamed first token ratio",
        "streamed later token ratio",
    }
    for size, row in found.items():
        asked = {"1": 4, "3": 6}[size]
        same = {"same texts": asked, "same facts": asked, "same refusals": asked}
        assert row.pop("compared") == {"questions": asked} | same
        assert row.pop("prefills") == 5
        assert row.pop("read once more") == 0
        assert min(value for name, value in row.items() if name.endswith(" ms")) > 0
        parts = {name.removeprefix("part: ").removesuffix(" ms") for name in row if name.startswith("part: ")}
        assert parts == PARTS
        assert row["step ratio"]["low"] <= row["step ratio"]["mean"] <= row["step ratio"]["high"]


def test_a_run_that_is_cut_short_keeps_the_sizes_it_has(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "adapters" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "adapters")
    asked = settings(batch_sizes=[1, 1 << 50], repeats=1)  # what no memory holds
    with pytest.raises(RuntimeError):
        speed.run(asked, memory_settings(), lm, encoder, CPU, paths, tmp_path)  # type: ignore[attr-defined]
    [found] = json.loads((tmp_path / "speed.json").read_text())["figures"].values()
    assert found.keys() == {"1"}


def test_settings_that_can_not_be_are_named(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(), world, lm, encoder)
    with pytest.raises(UserError, match=r"speed\.split: no question of 'unseen' has at most 2 tokens"):
        drawn(system, ["What is the capital of Aland?"], settings(prompt_tokens=2))
    with pytest.raises(ValueError, match=r"speed\.entries and speed\.batch_sizes must not be empty"):
        settings(batch_sizes=[])
    with pytest.raises(ValueError, match=r"speed\.repeats must be at least 1, not 0"):
        settings(repeats=0)
    with pytest.raises(ValueError, match=r"speed\.batch_sizes must be at least 1, not \[0\]"):
        settings(batch_sizes=[0])
    with pytest.raises(ValueError, match=r"speed\.compared must be 0 or more, not -1"):
        settings(compared=-1)
    with pytest.raises(ValueError, match=r"speed\.answer_tokens must be above speed\.steps, not 3"):
        settings(answer_tokens=3)
