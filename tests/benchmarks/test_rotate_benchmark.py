"""The CoDEx benchmark run for real on a small graph in the published format, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.benchmarks import rotate as benchmark
from pipeline.kg.linkprediction import hold_out
from tests.rotations import CONF, ring


def codex(folder: Path) -> Path:
    facts = ring()
    held = hold_out(facts, 0.2, 0)
    parts = {"train": facts[~held], "valid": facts[held][::2], "test": facts[held][1::2]}
    for split, rows in parts.items():
        text = "".join(f"Q{head}\tP{relation}\tQ{tail}\n" for head, relation, tail in rows)
        (folder / f"{split}.txt").write_text(text)
    return folder


@pytest.fixture
def small_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settings of a few dimensions in a configuration folder of the test's own."""
    folder = tmp_path / "conf" / "rotate"
    folder.mkdir(parents=True)
    for name in ("codex-m", "codex-m-shared"):
        values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        values |= {"dimension": 8, "initial_scale": 0.3, "batch_size": 16, "negatives": 8, "device": "cpu"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(benchmark, "CONF", tmp_path / "conf")


@pytest.mark.usefixtures("small_settings")
def test_all_runs_are_compared_at_the_chosen_setting(tmp_path: Path) -> None:
    out = tmp_path / "reports" / "rotate.json"
    benchmark.main(["--data", str(codex(tmp_path)), "--out", str(out), "--minutes", "0.15", "--seed", "1"])
    summary = json.loads(out.read_text())
    assert set(summary) == {"command", "commit", "versions", "machine", "seeds", "figures"}
    figures = summary["figures"]
    trials, runs = figures["trials"], figures["runs"]
    assert set(trials) == {"codex-m", "codex-m-shared"}
    assert figures["setting"] == max(trials, key=lambda name: trials[name]["validation_mrr"])
    assert set(runs) == {"ours", "pykeen_defaults", "pykeen_nssa", "equal_epochs"}
    assert runs["pykeen_defaults"]["loss"] == "MarginRankingLoss"
    assert runs["pykeen_nssa"]["loss"] == "NSSALoss"
    for name in ("pykeen_defaults", "pykeen_nssa"):
        assert runs[name]["training_seconds"] >= runs["ours"]["training_seconds"]
    assert runs["equal_epochs"]["epochs"] <= max(1, runs[runs["equal_epochs"]["as"]]["epochs"])
    for run in runs.values():
        assert 0 < run["test"]["filtered"]["mrr"] <= 1
        # On a ring an entity is the tail of a relation once, so what is held out was never seen on its side.
        assert run["test"]["type_filtered"]["mrr"] == 0
    assert runs["ours"]["test"]["filtered"]["mrr"] > 0.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"test.txt: not found; --data names a folder"),
        ("Q1 P1 Q2\n", r"test.txt:1: must hold head, relation and tail between tabs, not 'Q1 P1 Q2'"),
        ("Q1\tP0\tQ99\n", r"test.txt: 'Q99' is in no training fact"),
    ],
)
def test_bad_data_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    (codex(tmp_path) / "test.txt").unlink()
    if text is not None:
        (tmp_path / "test.txt").write_text(text)
    with pytest.raises(SystemExit, match=message):
        benchmark.main(["--data", str(tmp_path), "--out", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_setting_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"codex-x.yaml: not found; --settings takes names"):
        benchmark.main(["--data", str(tmp_path), "--out", str(tmp_path / "o"), "--settings", "codex-x"])
