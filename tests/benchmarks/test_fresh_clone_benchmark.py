"""The benchmark of a fresh clone, on a project whose commands take a moment."""

import sys
from os import environ
from pathlib import Path

import pytest

from pipeline.benchmarks.fresh_clone import measure, returned, watch
from pipeline.config import ROOT, UserError

MAKEFILE = """
setup:
\t@echo "cache: $(KG_CACHE)"
repro:
\t@test -e done || echo "Running stage 'ingest':"
\t@test -e done || echo "Running stage 'train@ours':"
\t@touch done
"""


def test_two_runs_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("KG_CACHE", "/full/already")
    (tmp_path / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    figures = measure(tmp_path)
    assert figures["stages"] == ["ingest", "train@ours"]
    assert figures["second_stages"] == []
    assert figures["second_stages_run"] == 0
    assert f"cache: {tmp_path}" in capfd.readouterr().out


def test_the_memory_of_descendants_is_counted(tmp_path: Path) -> None:
    child = "held = b'x' * (200 << 20); import time; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    seen = watch([sys.executable, "-c", parent], tmp_path, dict(environ))
    assert 200 << 20 < seen.peak < 600 << 20
    assert seen.seconds >= 2


def test_a_command_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such weights'); raise SystemExit(3)"]
    with pytest.raises(UserError, match=r"ended with 3: no such weights"):
        watch(command, tmp_path, dict(environ))


def test_what_the_run_is_committed_with_comes_back(tmp_path: Path) -> None:
    clone, to = tmp_path / "clone", tmp_path / "to"
    (clone / "reports" / "plots").mkdir(parents=True)
    (clone / "conf").mkdir()
    for name in ("dvc.yaml", "conf/config.yaml"):
        (clone / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    names = ("results.md", "report.html", "report.md", "metrics.json")
    files = ["dvc.lock", *(f"reports/{name}" for name in names)]
    for name in [*files, "reports/plots/recall.csv"]:
        (clone / name).write_text(name, encoding="utf-8")
    assert set(returned(clone, to)) == {*files, "reports/plots"}
    for name in [*files, "reports/plots/recall.csv"]:
        assert (to / name).read_text(encoding="utf-8") == name
