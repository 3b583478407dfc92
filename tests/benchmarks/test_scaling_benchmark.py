"""The scaling benchmark on the small world: the same steps in one process and in two."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.scaling import Scaling, compared, scaling
from pipeline.config import UserError
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import CPU, LIGHTNING, dysk, ours, training
from tests.tiny import SmallWorld, memory_settings

pytestmark = LIGHTNING


def settings(**changes: Any) -> Scaling:
    values: dict[str, Any] = {"processes": [1, 2], "batch_sizes": [3], "steps": 4, "warm": 1, "seeds": [0, 1]}
    return Scaling(**(values | {"bootstrap_samples": 50} | changes))


@pytest.mark.soak
def test_two_processes_are_set_beside_one(
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    paths, train = world.indexed(encoder), training(tmp_path / "checkpoints")
    parts = memory_settings(entities=60), lm, encoder, train, CPU, paths
    scaling.run(settings(), ours(), *parts, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    [row] = told["figures"]
    assert (told["device"], row["processes"], row["batch_size"]) == ("cpu", 2, 3)
    assert 0 < row["ratio"]["low"] <= row["ratio"]["mean"] <= row["ratio"]["high"]
    assert len(row["ratio_by_seed"]) == 2
    assert [len(curve) for curve in row["loss"]["together"]] == [4, 4]
    assert row["loss_apart"]["same seed, largest"] < 1e-3 < row["loss_apart"]["two seeds, mean"]
    assert "2 processes, 3 questions a step: " in capfd.readouterr().out


def test_the_ratio_is_of_the_same_steps() -> None:
    runs = {
        (1, 8, 0): {"seconds": [2.0, 4.0, 6.0], "loss": [1.0, 2.0]},
        (2, 8, 0): {"seconds": [1.0, 2.0, 3.0], "loss": [1.0, 2.5]},
    }
    row = compared(runs, settings(seeds=[0]), 8, 2)
    assert row["ratio"] == {"mean": 2.0, "low": 2.0, "high": 2.0}, "paired, so that the steps' spread is none"
    assert row["questions_per_second"] == {"one": 2.0, "together": 4.0}
    assert row["loss_apart"] == {"same seed, mean": 0.25, "same seed, largest": 0.5, "two seeds, mean": None}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"processes": [2]}, "scaling.processes must hold 1"),
        ({"batch_sizes": [1]}, "scaling.batch_sizes must be at least scaling.processes, 2"),
        ({"warm": 4}, "scaling.warm must be from 1 to below scaling.steps, not 4"),
        ({"seeds": []}, "scaling.seeds must not be empty"),
    ],
)
def test_settings_that_measure_nothing_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)


def test_a_method_that_is_not_trained_so_is_an_error(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    parts = memory_settings(), lm, encoder, training(tmp_path), CPU, world.paths, tmp_path
    with pytest.raises(UserError, match="choose a method that is trained, and not dysk"):
        scaling.run(settings(), dysk(), *parts)  # type: ignore[attr-defined]
