"""The benchmark of the server, small: a real process under a real load, killed once."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.serving import Serving, serving
from pipeline.benchmarks.truth import Truth, Update
from pipeline.weights import Encoder, LanguageModel
from tests.serve.small import trained_folder
from tests.tiny import SmallWorld


def settings(folder: Path, **changes: Any) -> Serving:
    values: dict[str, Any] = {"clients": 3, "updates": 0.4, "seconds": 3.0, "alone": 3.0, "kills": 1}
    values |= {"before_kill": 1.0, "ready": 120.0, "seed": 0, "memory": None, "adapter": None, "server": []}
    return Serving(**(values | {"folder": folder} | changes))


def test_a_server_under_load_loses_nothing_and_answers_from_what_holds(
    tmp_path: Path, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    trained = trained_folder(world, lm, encoder, tmp_path / "trained")
    section = settings(tmp_path / "scratch", adapter=trained.adapter, server=["serve.sync=none"])
    serving.run(section, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "serving.json").read_text())
    assert {"command", "commit", "versions", "machine", "seeds", "settings", "figures"} == told.keys()
    assert str(tmp_path) not in json.dumps(told)
    figures = told["figures"]
    assert figures["facts"] == 42
    assert figures["slots that change"] == 26
    for name in ("one at a time", "many at once"):
        load = figures[name]
        assert load["answers"] > 0
        assert load["updates"] > 0
        assert (load["errors"], load["errors, for instance"]) == (0, [])
        assert load["answers from a superseded fact"] == 0
        for what in ("updates", "first token", "answer"):
            took = load[f"{what}, as clients see it"]
            assert 0 < took["p50 ms"] <= took["p99 ms"] <= took["most ms"]
    assert figures["times one at a time"] > 0
    assert figures["updates lost"] == []
    assert figures["kills"]["updates acknowledged"] > 0
    assert figures["kills"]["updates lost"] == []
    assert figures["kills"]["answers from a superseded fact"] == 0
    assert figures["exit status when stopped"] == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def fact(head: str, relation: str, tail: str) -> dict[str, Any]:
    names = zip(("head", "relation", "tail"), (head, relation, tail), strict=True)
    return {name: {"key": key, "label": f"the {key}"} for name, key in names}


def test_what_may_be_seen_is_the_last_acknowledged_value_and_what_was_sent_since() -> None:
    slot = ("a", "r")
    truth = Truth.of([fact("a", "r", "1"), fact("b", "r", "2"), fact("c", "r", "3"), fact("a", "s", "1")])
    assert [changing.key for changing in truth.changing] == [slot, ("b", "r"), ("c", "r")]
    assert truth.changing[0].question == "What is the the r of the a?"
    assert truth.changing[0].tails == ("1", "2", "3")
    now = time.perf_counter()
    assert truth.allowed(slot, now, now) == {"1"}
    first = truth.begin(slot, "2")
    asked = time.perf_counter()
    assert truth.allowed(slot, asked, asked) == {"1", "2"}, "it was sent, and may be seen"
    assert truth.allowed(slot, now, first.sent - 1e-9) == {"1"}, "it was sent after the answer"
    first.acknowledged = time.perf_counter()
    later = time.perf_counter()
    assert truth.allowed(slot, later, later) == {"2"}
    assert truth.superseded(slot, later, later) == {"1"}
    assert truth.superseded(slot, asked, later) == set(), "it was acknowledged while the question was asked"
    truth.begin(slot, "3")
    assert truth.lost({slot: {"1"}}) == ["a | r: ['1'] instead of ['2', '3']"]
    assert truth.lost({slot: {"2", "3"}}) != []
    assert truth.lost({slot: set()}) != []
    assert truth.lost({slot: {"2"}}) == []
    after = time.perf_counter()
    assert truth.allowed(slot, after, after) == {"2"}, "what a killed server held counts from then on"
    assert truth.acknowledged == 1
    assert Update("x", 0.0).acknowledged == float("inf")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clients": 0}, r"serving\.clients must be at least 1, not 0"),
        ({"kills": -1}, r"serving\.kills must be at least 0"),
        ({"seconds": 0}, r"serving\.seconds must be above 0, not 0"),
        ({"updates": 1}, r"serving\.updates must be from 0 to below 1, not 1"),
    ],
)
def test_settings_that_can_not_be_are_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(tmp_path, **changes)
