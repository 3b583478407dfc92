"""The stage and the benchmark of long contexts at tiny scale, and what the report shows of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.longcontext import longcontext, over_lengths
from pipeline.config import UserError
from pipeline.longcontext_evaluate import longcontext_evaluate, passkey_lines
from pipeline.reporting.longcontext import LONGCONTEXT
from pipeline.reporting.measured import measured
from pipeline.weights import LanguageModel
from tests.evaluation.test_reading import tasks
from tests.kg.graphs import paths
from tests.longcontext.standins import long_context
from tests.longcontext.test_tasks import forget
from tests.longcontext.texts import written
from tests.model.tiny_systems import CPU


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KG_DATA_ROOT", str(written(tmp_path / "data")))
    forget()
    yield tmp_path
    forget()


def run(stage: Any, lm: LanguageModel, folder: Path, **changes: Any) -> dict[str, Any]:
    stage.run(long_context(), tasks(**changes), lm, CPU, paths(folder), 0, folder)
    told: dict[str, Any] = json.loads((folder / "longcontext.json").read_text(encoding="utf-8"))
    return told


def test_the_report_shows_what_the_benchmark_writes(lm: LanguageModel, texts: Path) -> None:
    told = run(longcontext, lm, texts)
    assert {"command", "commit", "machine", "settings"} <= told.keys()
    assert told["settings"]["longtasks"]["asked"] == 160
    assert (texts / "longcontext.png").stat().st_size > 10_000
    shown = {one.section.name: one for one in measured(LONGCONTEXT, texts)}
    assert len(shown) == 5
    for name, one in shown.items():
        assert one.sources, name
        assert len(one.table.rows) >= 1
        assert one.sources[0].picture
    rows = shown["longcontext"].table
    assert len(rows.rows) == 5
    found = [row[rows.header.index("context")].text for row in rows.rows]
    assert found == ["full", "streaming:budget=100", "snapkv:budget=0.5", "full", "streaming:budget=100"]
    ratios = [row[rows.header.index("of the first context's")].value for row in rows.rows]
    assert ratios[0] is None  # the first itself
    assert ratios[4] is not None
    assert ratios[4] < 1


def test_the_stage_tells_who_found_the_keys(
    lm: LanguageModel, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tasks()
    told = run(
        longcontext_evaluate,
        lm,
        texts,
        contexts=["full"],
        questions=replace(asked.questions, sets=[]),
        streaming=replace(asked.streaming, items=0),
        searched=replace(asked.searched, sets=[]),
    )
    assert told["questions"] == told["streaming"] == told["searched"] == {}
    printed = capsys.readouterr().out
    assert "passkey, classic, 300 tokens, full: " in printed
    assert printed.count("\n") == 2
    assert "command" not in told


def test_without_files_the_tasks_that_read_them_fail_and_the_others_have_been_told(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path / "nowhere"))
    forget()
    with pytest.raises(UserError, match=r"longcontext/nq_open_oracle.*not found"):
        run(longcontext, lm, tmp_path, contexts=["full"])
    told = json.loads((tmp_path / "longcontext.json").read_text(encoding="utf-8"))
    assert list(told["passkey"]["classic"]) == ["300", "700"]


def test_figures_go_by_length() -> None:
    em = {"mean": 0.5, "low": 0.2, "high": 0.8}
    rows = {
        "8": {"full": {"em": em, "ms a token": 2.0, "device bytes a text": 2**20}},
        "16": {"full": {"n": 0}},
    }
    first, second, third = over_lengths(rows, "classic")
    assert [(p.x, p.mean, p.low, p.high) for p in first.series["full"]] == [(8, 50, 20, 80)]
    assert [(p.x, p.mean, p.low) for p in second.series["full"]] == [(8, 2, 2)]
    assert third.series["full"][0].mean == 1
    lines = passkey_lines({"passkey": {"classic": {"16": {"full": {"n": 0, "reason": "out of memory"}}}}})
    assert lines == ["passkey, classic, 16 tokens, full: out of memory"]
