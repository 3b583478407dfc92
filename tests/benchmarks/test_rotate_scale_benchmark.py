"""The benchmark of an epoch of RotatE, run for real on a small graph, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.benchmarks.rotate_scale import RotateScale, ratios, rotate_scale, stock, stock_model
from pipeline.config import UserError
from pipeline.kg.rotate import Rotate
from pipeline.kg.rotate_training import Facts
from tests.rotations import CONF, laptop, ring


def large(**changes: Any) -> Rotate:
    """Return the choice that is measured, small enough for a test."""
    values = yaml.safe_load((CONF / "wikidata5m.yaml").read_text())
    values |= {"dimension": 8, "negatives": 16, "sharing": 32, "batch_size": 128, "device": "cpu"}
    return Rotate(**(values | changes))


def settings(**changes: Any) -> RotateScale:
    values: dict[str, Any] = {"facts": 2000, "entities": 300, "relations": 12, "exponent": 0.8, "seed": 0}
    values |= {"epochs": 3, "stock_negatives": [4, 8], "stock_batch_sizes": [32, 64]}
    values |= {"stock_warmup": 2, "stock_steps": 3}
    return RotateScale(**(values | changes))


def test_both_are_timed_and_the_ratio_is_that_of_the_best_batch_size(tmp_path: Path) -> None:
    rotate_scale.run(large(), settings(), tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "rotate_scale.json").read_text())
    assert {"command", "commit", "versions", "machine", "seeds", "settings", "figures"} == told.keys()
    assert str(tmp_path) not in json.dumps(told)
    assert told["settings"]["rotate"]["updates"] == "rows"
    ours, runs = told["figures"]["ours"], told["figures"]["stock"]
    others = ours["seconds of each epoch after the first"]
    assert len(others) == 2
    assert ours["seconds an epoch"] == pytest.approx(np.median(others), abs=1e-3)
    assert ours["steps an epoch"] == 16
    assert ours["negatives of a fact"] == 32
    losses = ours["mean loss of each epoch"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert ours["loss fell"]
    assert [(run["negatives of a fact"], run["batch size"]) for run in runs] == [
        (4, 32),
        (4, 64),
        (8, 32),
        (8, 64),
    ]
    epoch = "seconds an epoch, extrapolated from these steps"
    for run in runs:
        assert len(run["loss of each step"]) == 2 + 3
        assert len(run["seconds of each step"]) == 3
        assert run["seconds a step"] == pytest.approx(np.median(run["seconds of each step"]), abs=1e-4)
        assert run["steps an epoch"] == -(-2000 // run["batch size"])
        assert run[epoch] == pytest.approx(run["seconds a step"] * run["steps an epoch"], abs=0.06)
    for negatives, pair in ((4, runs[:2]), (8, runs[2:])):
        best = min(run[epoch] for run in pair) / ours["seconds an epoch"]
        name = f"PyKEEN's best batch size, {negatives} negatives a fact"
        assert told["figures"]["ratio"][name] == pytest.approx(best, abs=0.06)


def test_a_run_that_needs_too_much_memory_is_told_and_does_not_count() -> None:
    facts = Facts(ring(), ring()[:0], ring()[:0], 24, 3)
    model = stock_model(large(), settings(), facts)
    # So many negatives that no machine's addresses reach them.
    failed = stock(settings(), model, facts, negatives=10**15, batch_size=1)
    assert "memory" in failed["failed"]
    good = [stock(settings(), model, facts, negatives=4, batch_size=size) for size in (8, 16)]
    assert not any("failed" in run for run in good)
    best = min(run["seconds an epoch, extrapolated from these steps"] for run in good)
    told = ratios({"seconds an epoch": 0.001}, [failed, *good])
    assert told == {"PyKEEN's best batch size, 4 negatives a fact": round(best / 0.001, 1)}


def test_dense_updates_are_refused() -> None:
    with pytest.raises(UserError, match=r"rotate.updates is dense, .*; set rotate=wikidata5m"):
        rotate_scale.run(laptop(), settings(), Path())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"facts": 0}, r"rotate_scale\.facts must be at least 1, not 0"),
        ({"stock_steps": 0}, r"rotate_scale\.stock_steps must be at least 1, not 0"),
        ({"stock_negatives": []}, r"rotate_scale\.stock_negatives must hold numbers of at least 1"),
        ({"stock_batch_sizes": [8, 0]}, r"rotate_scale\.stock_batch_sizes must hold .*\[8, 0\]"),
        ({"epochs": 1}, r"rotate_scale\.epochs must be at least 2, .*not 1"),
        ({"entities": 2001}, r"rotate_scale\.entities must be at most rotate_scale\.facts, 2000, not 2001"),
        ({"exponent": 1.0}, r"rotate_scale\.exponent must be from 0 to below 1, not 1\.0"),
    ],
)
def test_settings_that_can_not_be_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)
