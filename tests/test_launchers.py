"""Sweeps through launchers that run jobs side by side: Joblib, Ray and submitit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.living_memory.optuna_sweeper import distribution
from tests.closure import ROOT
from tests.test_config import PROBE, given, project
from tests.test_sweeps import run, train_inputs
from tests.test_tracking import records
from tests.untraced import unmeasured

__all__ = ["project"]  # a fixture

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.local_cpus=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with this checkout's plugins in reach."""
    environment = {**unmeasured(), **QUIET, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def probed(project: Path) -> Path:
    shutil.copytree(ROOT / "conf" / "hydra", project / "conf" / "hydra")
    assert "probe()" in PROBE
    return project


def test_ray_runs_the_jobs_that_hydra_would(probed: Path) -> None:
    """One job of four gives up, which is told; the others end."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    done = start(probed, "pipeline.probe", "-m", *LAUNCHERS["ray"], "seed=1,2,13,3", "store.k=7")
    assert done.returncode != 0
    assert "error: seed 13: unlucky; take another" in done.stderr
    folders = {file.parent.name: given(file.parent) for file in probed.glob("multirun/probe/*/given.json")}
    assert folders.keys() == {f"seed={seed},store.k=7" for seed in (1, 2, 3)}
    assert {(job["seed"], job["k"]) for job in folders.values()} == {(1, 7), (2, 7), (3, 7)}


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("ray", ["hydra/launcher=ray"], "cluster"), ("optuna", ["hydra/sweeper=optuna"], "optuna")],
)
def test_what_a_launcher_or_a_sweeper_lacks_is_named(
    probed: Path, package: str, words: list[str], extra: str
) -> None:
    (probed / f"{package}.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    done = start(probed, "pipeline.probe", "-m", *words, "seed=1,2")
    assert done.returncode != 0
    assert f"pip install '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_optuna_looks_where_the_jobs_return_more(probed: Path) -> None:
    """The best of k from 1 to 64 is 40, which the first draws are far from."""
    file = probed / "pipeline" / "probe.py"
    text = file.read_text(encoding="utf-8").replace("out: Path) -> None:", "out: Path) -> float:")
    file.write_text(text.replace("write_text(text)\n", "write_text(text)\n    return -abs(store.k - 40)\n"))
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=16", "hydra.sweeper.n_jobs=2"]
    done = start(
        probed,
        "pipeline.probe",
        "-m",
        *words,
        "store.k=int(interval(1, 64))",
        "seed=choice(1, 2)",
        "store=flat",
    )
    assert done.returncode == 0, done.stderr
    jobs = [given(file.parent) for file in probed.glob("multirun/probe/*/given.json")]
    assert all(1 <= job["k"] <= 64 and job["seed"] in (1, 2) and job["store"] == "flat" for job in jobs)
    found = yaml.safe_load((probed / "multirun" / "probe" / "optimization_results.yaml").read_text())
    assert found["best_value"] == max(-abs(job["k"] - 40) for job in jobs) >= -2
    assert found["best_params"]["store.k"] in {job["k"] for job in jobs}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a=int(interval(1, 8))", IntDistribution(1, 8)),
        ("a=interval(0.5, 8)", FloatDistribution(0.5, 8)),
        ("a=tag(log, interval(0.1, 8.0))", FloatDistribution(0.1, 8.0, log=True)),
        ("a=range(1, 4)", CategoricalDistribution([1, 2, 3])),
        ("a=choice(x, y)", CategoricalDistribution(["x", "y"])),
        ("a=3,5", CategoricalDistribution([3, 5])),
    ],
)
def test_a_sweep_is_said_as_hydra_says_it(text: str, told: Any) -> None:
    [override] = OverridesParser.create().parse_overrides([text])
    assert distribution(override) == told


@pytest.mark.soak
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_eight_trainings_end_in_one_comparable_group(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(
        {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit": "submitit", "ray": "ray"}[launcher],
        reason="the extra cluster is not installed",
    )
    fixed = train_inputs(tmp_path)
    words = [*fixed, *LAUNCHERS[launcher], "memory.k=1,2,3,4", "seed=0,1"]
    run(
        *(sys.executable, "-m", "pipeline.train", "-m", *words),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        **QUIET,
    )
    parent = tmp_path / "multirun" / "train"
    folders = sorted(file.parent for file in parent.glob("*/train.json"))
    assert len(folders) == 8
    found = [json.loads((folder / "train.json").read_text(encoding="utf-8")) for folder in folders]
    assert {tuple(figures) for figures in found} == {tuple(found[0])}, "the same figures of all"
    runs = {}
    for kept in (tmp_path / "wandb").glob("offline-run-*"):
        told = {record.WhichOneof("record_type"): record for record in records(kept)}
        assert told["exit"].exit.exit_code == 0
        assert told["run"].run.run_group == "train", "one group a sweep"
        runs[told["run"].run.display_name] = {item.key for item in told["run"].run.config.update}
    assert runs.keys() == {folder.name for folder in folders}
    assert len({frozenset(keys) for keys in runs.values()}) == 1
    assert {"memory", "seed"} <= next(iter(runs.values()))
