"""The stage `train` started as clusters start it: by SLURM on every task, by torchrun on every host."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.together import FRESH_STORE
from tests.closure import ROOT
from tests.test_sweeps import train_inputs

pytestmark = pytest.mark.soak

SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_JOB_ID": "12345",
    "SLURM_JOB_NAME": "train",
    "SLURM_NODEID": "0",
}
"""What `srun` tells each task of a job with two tasks on one host."""


def running(
    folder: Path, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]
) -> list[subprocess.Popen[str]]:
    """Start commands side by side in a folder."""
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=shared | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words, own in zip(commands, environments, strict=True)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait for commands, which must end well."""
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]


def two_hosts(stage: Sequence[str]) -> tuple[list[list[str]], list[dict[str, str]]]:
    """Return what starts a stage on two hosts, one process each, and their environments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "-m", *stage]
    words += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.hosts=2"]
    return [words, words], [FRESH_STORE, FRESH_STORE]


def same_adapter(folder: Path, alone: dict[str, torch.Tensor]) -> None:
    found = load_file(folder / "adapter.safetensors")
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, torch.Tensor]]:
    """A folder with inputs, the command that trains there, and the adapter that one process fits."""
    folder = tmp_path_factory.mktemp("hosts")
    fixed = [word for word in train_inputs(folder) if word != "trainer=cpu"]
    alone = ["pipeline.train", *fixed, "trainer=cpu", "hydra.run.dir=out/ours"]
    ended(running(folder, [alone], [{}]))
    return folder, fixed, load_file(folder / "out" / "ours" / "adapter.safetensors")


@pytest.mark.parametrize("how", ["slurm", "torchrun"])
def test_two_processes_fit_what_one_does(
    how: str, inputs: tuple[Path, list[str], dict[str, torch.Tensor]]
) -> None:
    folder, fixed, alone = inputs
    before = set((folder / "wandb").glob("offline-run-*"))
    stage = ["pipeline.train", *fixed, f"hydra.run.dir=out/{how}"]
    if how == "slurm":
        words = [*stage, "trainer=slurm", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.hosts=1"]
        tasks = [{**SLURM, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
        ended(running(folder, [words, words], tasks))
    else:
        ended(running(folder, *two_hosts(stage)))
    same_adapter(folder / "out" / how, alone)
    runs = set((folder / "wandb").glob("offline-run-*"))
    assert len(runs - before) == 1, "the first process alone tracks it"


def test_two_processes_ask_what_one_does(inputs: tuple[Path, list[str], dict[str, torch.Tensor]]) -> None:
    """In batches of three, which one process has more of than the other."""
    folder, fixed, _ = inputs
    stage = ["pipeline.evaluate", *(word for word in fixed if not word.startswith(("train=", "logger=")))]
    stage += ["paths.adapters=out", "evaluate.batch_size=3", "evaluate.questions_per_split=7"]
    ended(running(folder, [[*stage, "hydra.run.dir=out/asked"]], [{}]))
    both = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *stage]
    ended(running(folder, [[*both, "hydra.run.dir=out/asked-by-two"]], [{}]))
    one, two = (
        pq.read_table(folder / "out" / name / "answers.parquet").drop_columns(["seconds"])
        for name in ("asked", "asked-by-two")
    )
    assert one.num_rows > 14
    assert two == one, "row by row, batches and all"


def test_both_hosts_go_on_when_one_loses_its_process(
    inputs: tuple[Path, list[str], dict[str, torch.Tensor]],
) -> None:
    folder, fixed, _ = inputs
    stage = ["pipeline.train", *fixed, "train.steps.ours=120", "train.checkpoint_every=10"]
    ended(running(folder, [[*stage, "trainer=cpu", "hydra.run.dir=out/whole"]], [{}]))
    hosts = running(folder, *two_hosts([*stage, "hydra.run.dir=out/killed"]))
    curve = None
    while not curve or len(curve.read_text(encoding="utf-8").splitlines()) < 30:
        time.sleep(0.05)
        assert all(host.poll() is None for host in hosts)
        curve = next((folder / "checkpoints").glob("*/curve.csv"), None)
    [worker] = psutil.Process(hosts[1].pid).children()
    worker.kill()
    assert len(curve.read_text(encoding="utf-8").splitlines()) < 110, "it was killed in mid-training"
    ended(hosts)
    same_adapter(folder / "out" / "killed", load_file(folder / "out" / "whole" / "adapter.safetensors"))
    steps = [row.split(",")[0] for row in (folder / "out" / "killed" / "curve.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(120))]
