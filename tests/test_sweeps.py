"""Sweeps: Hydra's over one stage, DVC's over the whole DAG. Both leave comparable results side by side."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config import choices
from tests.workspace import git, placeholder_project


def run(*words: str, cwd: Path, **environment: str) -> str:
    """Run a command with this environment's programs and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
def test_queued_experiments_run_the_dag_once_for_each_value(tmp_path: Path) -> None:
    """`dvc exp run --queue` works in a copy of the commit; placeholders stand for the stages."""
    placeholder_project(tmp_path)
    run("dvc", "repro", cwd=tmp_path)
    git("add", "--all", cwd=tmp_path)
    git("commit", "--quiet", "--message", "Results", cwd=tmp_path)
    file = Path("conf") / "memory" / f"{choices()['memory']}.yaml"
    key, value = next(
        (key, value)
        for key, value in yaml.safe_load((tmp_path / file).read_text(encoding="utf-8")).items()
        if isinstance(value, int) and not isinstance(value, bool)
    )
    values = [value + 1, value + 2]
    settings = f"{file}:{key}={','.join(map(str, values))}"
    identity = {
        f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    run("dvc", "exp", "run", "--queue", "-S", settings, cwd=tmp_path, **identity)
    run("dvc", "exp", "run", "--run-all", cwd=tmp_path, **identity)
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=tmp_path))
    found = {}
    for commit in shown:
        for experiment in commit["experiments"] or []:
            [revision] = experiment["revs"]
            data = revision["data"]
            [metrics] = data["metrics"].values()
            found[data["params"][str(file)]["data"][key]] = metrics["data"]["digest"]
    assert found.keys() == set(values)
    assert len(set(found.values())) == 2, "each experiment has results of its own"
    assert git("status", "--porcelain", cwd=tmp_path) == "", "the workspace is as it was"
