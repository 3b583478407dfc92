"""Several processes that run one stage together: who they are, how they start and how they find each other.

Every process runs the whole stage on the same arguments and seeds; where a loop shares work out, its module
says so. The first one alone writes files, talks to Weights & Biases and shows progress.

They are started by torchrun (`python -m torch.distributed.run`), by SLURM's `srun`, or by the stage itself
(`pipeline.together`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, who may have more to load."""


class Place(NamedTuple):
    """A process among those that were started together."""

    rank: int
    """Its number among all of them."""
    world: int
    """How many they are."""
    local: int
    """Its number on its host, which is that of its GPU."""


def place() -> Place:
    """Return the place that torchrun or SLURM gave to this process; (0, 1, 0) where none did."""
    if dist.is_available() and dist.is_torchelastic_launched():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    else:
        return Place(0, 1, 0)
    return Place(*(int(os.environ[name]) for name in names))


def first() -> bool:
    """Return whether this process is the one that writes."""
    return place().rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that were started together inside this block; a process alone joins none.

    Args:
        device: what this process computes on; GPUs talk through NCCL, CPUs through Gloo.
    """
    here = place()
    if here.world == 1 or dist.is_initialized():
        yield
        return
    if "MASTER_ADDR" not in os.environ:  # torchrun sets it; SLURM tells the hosts' names
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=here.rank, world_size=here.world, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def agree(state: dict[str, torch.Tensor]) -> None:
    """Give the tensors of every process the values that the first one has, in place.

    What all of them computed alike may differ in its last digits, and a choice made by it altogether.
    """
    if not dist.is_initialized():
        return
    with torch.no_grad():
        for value in state.values():
            told = value.clone()
            dist.broadcast(told, src=0)
            value.copy_(told)


def wait() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()
