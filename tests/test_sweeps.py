"""Sweeps: Hydra's over one stage, DVC's over the whole DAG. Both leave comparable results side by side."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from pipeline.config import choices
from tests.closure import ROOT
from tests.model.tiny_systems import ours, training
from tests.test_embed import some_tables
from tests.test_tracking import records
from tests.tiny import memory_settings, small_world, tiny_encoder, tiny_language_model
from tests.workspace import git, placeholder_project


def run(*words: str, cwd: Path, **environment: str) -> str:
    """Run a command with this environment's programs and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def embed_inputs(folder: Path) -> list[str]:
    """Write the tables that `embed` reads, and return the overrides that make it quick."""
    some_tables(folder / "data")
    return ["rotate.epochs=2", "rotate.batch_size=16", "rotate.device=cpu"]


def train_inputs(folder: Path) -> list[str]:
    """Write what `train` reads, with choices of its own beside those of conf/, and return what picks them."""
    encoder, lm = tiny_encoder(folder / "encoder"), tiny_language_model(folder / "lm")
    world = small_world(folder / "world")
    world.indexed(encoder)
    for source, target in (("tables", "data"), ("kv", "data"), ("index", "models")):
        (folder / target).mkdir(exist_ok=True)
        (folder / "world" / source).rename(folder / target / source)
    chosen = {
        "method": {"kind": "ours", **asdict(ours())},
        "memory": asdict(memory_settings(entities=60)),
        "lm": asdict(lm),
        "encoder": asdict(encoder),
        "train": asdict(training(Path("checkpoints"))) | {"checkpoints": "checkpoints"},
    }
    for group, values in chosen.items():
        file = folder / "choices" / group / "tiny.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
    picked = [f"{group}=tiny" for group in chosen]
    return ["--config-dir", "choices", "logger=offline", "trainer=cpu", *picked]


@pytest.mark.parametrize(
    ("stage", "inputs", "key", "values", "result", "tracked"),
    [
        ("embed", embed_inputs, "rotate.dimension", [4, 6], "embed.json", 0),
        ("train", train_inputs, "memory.k", [1, 3], "train.json", 2),
    ],
)
def test_two_jobs_of_a_multirun_leave_comparable_results(
    stage: str,
    inputs: Callable[[Path], list[str]],
    key: str,
    values: list[int],
    result: str,
    tracked: int,
    tmp_path: Path,
) -> None:
    """The command that a user types, on the real stage, with small inputs."""
    fixed = inputs(tmp_path)
    sweep = f"{key}={','.join(map(str, values))}"
    run(
        *(sys.executable, "-m", f"pipeline.{stage}", "-m", *fixed, sweep),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    parent = tmp_path / "multirun" / stage
    folders = [folder for value in values for folder in parent.glob(f"*{key}={value},*")]
    assert len(folders) == len([entry for entry in parent.iterdir() if entry.is_dir()]) == len(values)
    found = [json.loads((folder / result).read_text(encoding="utf-8")) for folder in folders]
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]
    files = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    assert files[0] == files[1], "both jobs leave the same files"
    assert not [name for name in files[0] if name.endswith((".log", "config.yaml"))]
    runs = set()
    for kept in (tmp_path / "wandb").glob("offline-run-*"):
        found = {record.WhichOneof("record_type"): record for record in records(kept)}
        assert found["exit"].exit.exit_code == 0
        assert found["run"].run.run_group == stage, "one group a sweep"
        runs.add(found["run"].run.display_name)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == tracked
    assert runs == ({folder.name for folder in folders} if tracked else set())


def test_the_jobs_of_a_sweep_end_side_by_side(tmp_path: Path) -> None:
    """One trains for each value, and both are one group."""
    fixed = train_inputs(tmp_path)
    file = tmp_path / "choices" / "sweep" / "facts.yaml"
    file.parent.mkdir()
    text = (
        (ROOT / "conf" / "sweep" / "k.yaml")
        .read_text(encoding="utf-8")
        .replace("train: false", "train: true")
    )
    file.write_text(text.replace("multirun/k", "multirun/facts"), encoding="utf-8")
    words = ["sweep=facts", "memory.k=1,3", "evaluate.splits=[valid]", "evaluate.questions_per_split=4"]
    said = run(*(sys.executable, "-m", "pipeline.trial", *fixed, *words), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "valid: over memory.k, EM is" in said
    table = json.loads((tmp_path / "reports" / "sweeps" / "facts.json").read_text(encoding="utf-8"))
    assert [job["values"] for job in table["jobs"]] == [{"memory.k": "1"}, {"memory.k": "3"}]
    assert (tmp_path / "reports" / "sweeps" / "facts.png").is_file()
    groups = {
        record.run.run_group
        for kept in (tmp_path / "wandb").glob("offline-run-*")
        for record in records(kept)
        if record.WhichOneof("record_type") == "run"
    }
    assert groups == {"facts"}
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


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
