"""The benchmarks of pairing and ablation on the small world: every lesson, and settings that can't be."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.benchmarks.ablation import TAUGHT, Ablation, ablation
from pipeline.benchmarks.pairing import Pairing, named, pairing
from pipeline.config import ConfigError
from pipeline.evaluation.learning import PAIRINGS
from pipeline.reporting.paper import paper_figures
from pipeline.weights import Encoder, LanguageModel
from tests.evaluation.test_grounding import settings as grounding
from tests.evaluation.test_learning import ENTRY
from tests.model.tiny_systems import CPU, LIGHTNING, training
from tests.tiny import SmallWorld, memory_settings

pytestmark = LIGHTNING


def pairings(**changes: Any) -> Pairing:
    values: dict[str, Any] = {"entry": ENTRY, "pairings": list(PAIRINGS), "rows": 5, "seeds": [0, 1]}
    return Pairing(**(values | {"steps": 4, "points": 2, "bootstrap_samples": 20} | changes))


def ablations(**changes: Any) -> Ablation:
    values: dict[str, Any] = {"entry": ENTRY, "rows": 4, "seeds": [0], "steps": 3, "sizes": [4, 9]}
    return Ablation(**(values | changes))


def test_every_pairing_is_trained_with_every_encoder_and_seed(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(asdict(encoder)))
    out = tmp_path / "out"
    out.mkdir()
    pairing.run(  # type: ignore[attr-defined]
        pairings(encoders=[str(file)]), memory_settings(), lm, training(tmp_path), CPU, world.paths, out
    )
    told = json.loads((out / "pairing.json").read_text())
    assert told["seeds"] == [0, 1]
    [found] = told["figures"].values()
    assert list(found) == list(PAIRINGS)
    for row in found.values():
        assert row["curve"]["step"] == [0.5, 2.5]
        assert min(row["curve"]["loss"]) > 0
        assert len(row["last_by_seed"]) == 2
        assert row["last"]["mean"] == pytest.approx(sum(row["last_by_seed"]) / 2)
        assert row["last"]["low"] <= row["last"]["mean"] <= row["last"]["high"]
    starts = [row["curve"]["loss"][0] for row in found.values()]
    assert starts[1] != starts[0] != starts[2]
    assert [path.name for path in out.iterdir()] == ["pairing.json"]
    [drawn] = paper_figures(out)
    assert len(drawn.tables[0].rows) == 3


def test_every_choice_of_rows_is_trained_and_asked(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    memory, settings = memory_settings(), training(tmp_path)
    paths = world.indexed(encoder)
    ablation.run(  # type: ignore[attr-defined]
        ablations(), grounding(questions=3), memory, lm, encoder, settings, CPU, paths, out
    )
    told = json.loads((out / "ablation.json").read_text())
    figures = told["figures"]
    assert figures["rows"] == {"all": 8, "without events": 4, "without entities": 4}
    assert figures["loss"].keys() == figures["accuracy"].keys() == TAUGHT.keys()
    for found in figures["accuracy"].values():
        assert found.keys() == {"key", "as_asked"}
        for sizes in found.values():
            assert sizes.keys() == {"4", "9"}
            assert all(row["questions"] == 3 for row in sizes.values())
            assert all(0 <= row["acc1"]["mean"] <= row["acc5"]["mean"] <= 1 for row in sizes.values())
    [drawn] = paper_figures(out)
    assert len(drawn.tables[0].rows) == 6, "wordings times trainings"


def test_settings_that_can_not_be_are_named() -> None:
    for changes, words in (
        ({"encoders": []}, r"pairing\.encoders and pairing\.seeds must not be empty"),
        ({"pairings": ["wrong"]}, r"pairing\.pairings must be some of right, memory, both"),
        ({"steps": 0}, r"pairing\.rows, steps, points and bootstrap_samples must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            pairings(**({"encoders": ["minilm"]} | changes))
    with pytest.raises(ValueError, match=r"ablation\.seeds and ablation\.sizes must not be empty"):
        ablations(sizes=[])
    with pytest.raises(ValueError, match=r"ablation\.rows, steps and sizes must be at least 1"):
        ablations(sizes=[0])
    with pytest.raises(ConfigError, match=r"pairing\.encoders: no 'none' in conf/encoder; it has minilm"):
        named("none")
    assert named("minilm").name == "all-minilm-l6-v2"
