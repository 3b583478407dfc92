"""The benchmark of changes, on a small memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.updates import Updates, updates
from pipeline.weights import Encoder
from tests.tiny import memory_settings


def settings(folder: Path, **changes: Any) -> Updates:
    values = {"facts": 2000, "facts_per_entity": 20, "relations": 30, "exponent": 0.8, "dimensions": 32}
    values |= {"seed": 0, "rate": 200, "seconds": 0.4, "readers": 1, "checked": 9, "synced": 3, "new": 2}
    return Updates(**(values | {"bulk": 130, "batch": 50, "folder": folder} | changes))


def test_changes_are_found_and_followed_and_nothing_is_left(tmp_path: Path, encoder: Encoder) -> None:
    section = settings(tmp_path / "scratch")
    updates.run(section, memory_settings(entities=20, N=50), encoder, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "updates.json").read_text())
    assert {"command", "commit", "versions", "machine", "seeds", "settings", "figures"} == told.keys()
    assert str(tmp_path) not in json.dumps(told)
    figures = told["figures"]
    assert figures["entities"] == 100
    for name in ("none", "group", "always"):
        took = figures[f"one change, sync={name}"]
        assert 0 < took["p50 ms"] <= took["p99 ms"] <= took["most ms"]
    steadily = figures["changes at a rate"]
    assert (steadily["checked by a search"], steadily["not found by it"]) == (9, 0)
    assert 0 < steadily["a second"] < 250
    assert steadily["of the processor, mean ms"] > 0
    assert told["machine"]["cores"] >= 1
    assert figures["searches without changes"]["changes followed"] == 0
    beside = figures["searches beside changes"]
    assert 0 < beside["changes followed"] <= 80
    assert 0 < beside["of the processor, p50 ms"] <= beside["of the processor, p99 ms"]
    meanwhile = figures["changes at a rate beside a merge"]
    assert meanwhile["seconds"] > 0
    assert meanwhile["checked by a search"] > 0
    assert meanwhile["not found by it"] == 0
    assert figures["searches beside changes and a merge"]["changes followed"] > 0
    assert figures["new entities"]["p50 ms"] > 0
    assert figures["many at once"]["facts"] == 130
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"facts": 0}, r"updates\.facts must be at least 1"),
        ({"readers": -1}, r"updates\.readers must be at least 0"),
        ({"rate": 0}, r"updates\.rate must be at least 0\.001"),
        ({"exponent": 1}, r"updates\.exponent must be from 0 to below 1, not 1"),
    ],
)
def test_settings_that_can_not_be_are_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(tmp_path, **changes)
