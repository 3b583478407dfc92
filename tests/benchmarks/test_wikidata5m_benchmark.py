import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.benchmarks.wikidata5m import RELATIONS, generate, load, measured
from pipeline.config import ROOT


def rows(folder: Path) -> np.ndarray:
    text = "".join(
        (folder / f"wikidata5m_transductive_{part}.txt").read_text() for part in ("train", "valid", "test")
    )
    return np.array([line.split("\t") for line in text.splitlines()])


def test_the_made_up_files_have_the_sizes_and_the_skew_that_they_claim(tmp_path: Path) -> None:
    made = generate(tmp_path / "a", 0.001, 40, 0)
    facts = rows(tmp_path / "a")
    assert made["entities"] == 4594
    assert made["triples"] == len(facts) == len(np.unique(facts, axis=0)) == 20_614 + 10 + 10
    assert len(np.unique(facts[:, 0])) == 4594
    assert len(np.unique(facts[:, 1])) <= RELATIONS
    assert not (facts[:, 0] == facts[:, 2]).any()
    degrees = np.sort(np.unique(facts[:, 2], return_counts=True)[1])[::-1]
    assert degrees[0] > 20 * np.median(degrees)
    generate(tmp_path / "b", 0.001, 40, 0)
    generate(tmp_path / "c", 0.001, 40, 1)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (rows(tmp_path / "c")[: len(facts)] != facts).any()


def test_loading_counts_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_DATA_ROOT", "overwritten by load")
    made = generate(tmp_path / "files", 0.0005, 0, 0)
    figures = measured(lambda: load(tmp_path / "files", tmp_path / "tables", 0, 0))
    assert figures["entities"] == made["entities"]
    assert figures["facts"] == made["triples"]
    assert figures["peak memory in MiB"] > 10
    assert os.environ["KG_DATA_ROOT"] == str(tmp_path)


def test_the_command_writes_figures_and_leaves_no_files(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    scratch = tmp_path / "scratch"
    options = ["--scale", "0.0002", "--characters", "60", "--scratch", str(scratch), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "pipeline.benchmarks.wikidata5m", *options], cwd=ROOT, check=True)
    report = json.loads(out.read_text())
    assert report.keys() == {"command", "commit", "versions", "machine", "seeds", "figures"}
    assert {"cores", "memory in GiB"} <= report["machine"].keys()
    assert report["figures"]["load"]["facts"] == report["figures"]["generate"]["triples"]
    assert not scratch.exists()
