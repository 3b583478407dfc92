"""The stage `train` started as clusters start it: by SLURM on every task, by torchrun on every host."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def started(folder: Path, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]) -> None:
    """Start commands side by side in a folder and wait for all."""
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
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
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, torch.Tensor]]:
    """A folder with inputs, the command that trains there, and the adapter that one process fits."""
    folder = tmp_path_factory.mktemp("hosts")
    fixed = [word for word in train_inputs(folder) if word != "trainer=cpu"]
    alone = ["pipeline.train", *fixed, "trainer=cpu", "hydra.run.dir=out/alone"]
    started(folder, [alone], [{}])
    return folder, fixed, load_file(folder / "out" / "alone" / "adapter.safetensors")


@pytest.mark.parametrize("how", ["slurm", "torchrun"])
def test_two_processes_fit_what_one_does(
    how: str, inputs: tuple[Path, list[str], dict[str, torch.Tensor]]
) -> None:
    folder, fixed, alone = inputs
    before = set((folder / "wandb").glob("offline-run-*"))
    stage = ["pipeline.train", *fixed, "trainer.accelerator=cpu", f"hydra.run.dir=out/{how}"]
    if how == "slurm":
        words = [*stage, "trainer=slurm", "trainer.devices=2", "trainer.hosts=1"]
        tasks = [{**SLURM, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
        started(folder, [words, words], tasks)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        words = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting, "-m"]
        words += [*stage, "trainer=ddp", "trainer.devices=1", "trainer.hosts=2"]
        started(folder, [words, words], [{"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}] * 2)
    found = load_file(folder / "out" / how / "adapter.safetensors")
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    runs = set((folder / "wandb").glob("offline-run-*"))
    assert len(runs - before) == 1, "the first process alone tracks it"
