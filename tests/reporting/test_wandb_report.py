"""The report for Weights & Biases names what our runs log, and nothing else."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import CONF, UserError, options
from pipeline.evaluation.runs import run
from pipeline.model.fitting import CURVE
from pipeline.reporting.wandb_report import STEP, built, main, spec
from pipeline.tracking import run as tracking
from tests.evaluation.toys import LookUp, graph, questions
from tests.reporting.test_report import EVALUATE
from tests.test_tracking import OFFLINE, records

GROUPS = [*options("sweep"), "my folder"]


def panels(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for section in told["sections"] for panel in section["panels"]]


def summaries(told: dict[str, Any]) -> set[str]:
    bars = {name for panel in panels(told) if panel["kind"] == "bars" for name in panel["metrics"]}
    columns = [column for panel in panels(told) for column in panel.get("columns", [])]
    return bars | {column["summary"] for column in columns if "summary" in column}


def test_results_are_found_under_the_names_that_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    metrics = run(LookUp(graph(), "ours"), graph(), questions(), EVALUATE, 0, tmp_path / "out")
    logger = OFFLINE.__class__(**(OFFLINE.__dict__ | {"dir": tmp_path}))
    with tracking(logger, tmp_path / "k" / "memory.k=3", {"seed": 0}) as tracked:
        tracked.summarize({"evaluate": metrics})
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    updates = [item for record in records(folder) for item in record.summary.update]
    logged = {item.key or ".".join(item.nested_key) for item in updates}
    assert "evaluate.splits.unseen.em.mean" in logged
    for name in summaries(spec("my folder", "p", None)):
        split = name.split(".")[2] if name.startswith("evaluate.splits.") else ""
        assert name in logged or (split and split not in EVALUATE.splits), name


@pytest.mark.parametrize("group", GROUPS)
def test_curves_are_those_that_training_logs(group: str) -> None:
    logged = {f"train/{name}" for name in CURVE}
    lines = [panel for panel in panels(spec(group, "p", None)) if panel["kind"] == "lines"]
    assert {name for panel in lines for name in panel["metrics"]} == logged - {"train/step"}
    assert {panel["x"] for panel in lines} == {STEP}


@pytest.mark.parametrize("group", GROUPS)
def test_swept_settings_are_those_of_the_configuration(group: str) -> None:
    told = spec(group, "p", None)
    [parallel] = [panel for panel in panels(told) if panel["kind"] == "parallel"]
    keys = [column["config"] for column in parallel["columns"] if "config" in column]
    assert bool(keys) == (group in options("sweep") and group != "sparse"), "sparse compares methods alone"
    for key in keys:
        section, *names = key.split(".")
        files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / section).glob("*.yaml")]
        assert any(_has(settings, names) for settings in files), key


def _has(settings: dict[str, Any], names: list[str]) -> bool:
    first, *rest = names
    return first in settings and (not rest or _has(settings[first], rest))


def test_what_it_shows_is_written_without_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["k", "--entity", "us", "--out", str(tmp_path / "k.json")])
    told = json.loads((tmp_path / "k.json").read_text(encoding="utf-8"))
    assert told == spec("k", "living-memory", "us")
    assert told["description"] == "How many facts need to be read?"
    assert [section["title"] for section in told["sections"]] == [
        "Exact match by split and method",
        "Training",
        "Where attention goes",
        "Settings and what came of them",
    ]
    assert "k.json says what the report shows" in capsys.readouterr().out


def test_sending_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(
        UserError, match=r"--send needs the extra `report`: run `pip install -e '\.\[report\]'`"
    ):
        main(["k", "--out", str(tmp_path / "k.json"), "--send"])
    assert (tmp_path / "k.json").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, by the package itself
def test_weights_and_biases_own_classes_take_it() -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra report is not installed")
    blocks = built(spec("k", "p", "us")).blocks
    shown = [panel._to_model() for block in blocks for panel in getattr(block, "panels", [])]
    text = "".join(panel.model_dump_json(by_alias=True) for panel in shown)
    for name in ("evaluate.splits.valid.em.mean", "train/null_share", "config:memory.value.k"):
        assert name in text
