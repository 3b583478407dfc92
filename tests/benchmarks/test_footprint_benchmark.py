"""The footprint benchmark on the small world: what is taken, by whom, and what can't be done."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benchmarks.footprint import Footprint, footprint
from pipeline.config import UserError
from pipeline.evaluation.footprint import Gauge, Job, Machine, measured
from pipeline.evaluation.variants import Variant
from pipeline.model.adapter import save_adapter
from pipeline.reporting.paper import paper_figures
from pipeline.weights import Encoder, LanguageModel
from tests.evaluation.test_grounding import settings as grounding
from tests.model.tiny_systems import CPU, opened, rag
from tests.tiny import SmallWorld, memory_settings

RAG = "rag:rank=2,answer_tokens=4"
ICL = "icl:rank=2,answer_tokens=4,fact_tokens=12"


def settings(**changes: Any) -> Footprint:
    values: dict[str, Any] = {"entries": [RAG, ICL], "sizes": [4], "seed": 0, "trained": True}
    return Footprint(**(values | {"questions": 2, "repeats": 2} | changes))


def test_a_gauge_sees_what_is_taken_and_what_was() -> None:
    gauge = Gauge(torch.device("cpu"))
    gauge.restart()
    before = gauge.held()
    block = torch.ones(1 << 24)  # 64 MiB
    assert gauge.held() - before > 60 << 20
    del block
    assert gauge.held() - before < 30 << 20
    assert gauge.peak() - before > 60 << 20
    gauge.restart()
    assert gauge.peak() - before < 30 << 20
    assert gauge.reserved() is None


def test_every_entry_is_measured_at_every_size(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    save_adapter(opened(rag(), world, lm, encoder), tmp_path / "0" / "rag", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    out = tmp_path / "out"
    out.mkdir()
    most = int(world.graph.live(0).sum())
    asked = settings(sizes=[4, most + 30])
    footprint.run(asked, grounding(), memory_settings(), lm, encoder, CPU, paths, out)  # type: ignore[attr-defined]
    told = json.loads((out / "footprint.json").read_text())
    assert told["measured"].startswith("resident bytes of a fresh process")
    assert [(row["entry"], row["facts"]) for row in told["figures"]] == [
        (entry, size) for size in (4, most + 30) for entry in (RAG, ICL)
    ]
    small, in_prompt, large, too_long = told["figures"]
    for row in (small, in_prompt, large):
        assert row["reason"] is None
        assert row["lm"] > 0
        assert row["peak"] > 0
        assert row["reserved"] is None
        assert 0 < row["seconds"]["low"] <= row["seconds"]["mean"] <= row["seconds"]["high"]
    assert "icl" in too_long["reason"]
    assert "positions" in too_long["reason"]
    assert [path.name for path in out.iterdir()] == ["footprint.json"]
    [drawn] = paper_figures(out)
    assert [cell.text for cell in drawn.tables[0].rows[1]][::2] == [ICL, "not possible"]


def test_a_process_that_is_killed_is_a_row_and_not_the_end(
    lm: LanguageModel, encoder: Encoder, world: SmallWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variant = Variant.read("closed_book", memory_settings())
    job = Job(variant, world.indexed(encoder).index, ["Why?"], 1, 0, False)
    machine = Machine(lm, encoder, world.paths, "cpu")
    monkeypatch.setattr("pipeline.evaluation.footprint.measure", killed)
    assert "killed" in measured(job, machine)["reason"]
    monkeypatch.setattr("pipeline.evaluation.footprint.measure", full)
    assert measured(job, machine)["reason"] == "out of memory: 3 GiB wanted"


def killed(job: Job, machine: Machine) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def full(job: Job, machine: Machine) -> None:
    raise torch.OutOfMemoryError("3 GiB wanted\nmore of it")


def test_what_can_not_be_measured_is_told(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"footprint\.sizes must be at least footprint\.questions, 2"):
        settings(sizes=[1, 10])
    with pytest.raises(ValueError, match=r"footprint\.entries and footprint\.sizes must not be empty"):
        settings(entries=[])
    with pytest.raises(ValueError, match=r"footprint\.questions and footprint\.repeats must be at least 1"):
        settings(repeats=0)
    from pipeline.evaluation.systems import system_on
    from tests.model.tiny_systems import dysk

    system = opened(rag(), world, lm, encoder)
    with pytest.raises(UserError, match="dysk needs the graph's RotatE vectors"):
        system_on(dysk(), system.reader, system.encoder, system.memory)
