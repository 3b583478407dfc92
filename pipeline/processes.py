"""Several processes that run one stage together: how they find each other, and what they agree on.

Every process runs the whole stage on the same arguments and seeds; where a loop shares work out, its module
says so. The first one alone writes files, talks to Weights & Biases and shows progress.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pipeline.place import place

Item = TypeVar("Item")
PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, who may have more to load."""


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
    yield
    # Not after an error: taking leave could wait for the others, who wait for what this process didn't do.
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


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Return those of `items` that this process works on: every n-th of n processes; all of them, alone."""
    return items[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else items


def everyones(made: Sequence[Item]) -> list[Item]:
    """Return what all processes made of their `share` of some items, in the order of those."""
    if not dist.is_initialized():
        return list(made)
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, list(made))
    missing = object()
    rounds = zip_longest(*told, fillvalue=missing)
    return [one for row in rounds for one in row if one is not missing]


def own_device() -> torch.device:
    """Return the GPU of this process's number on its host, or the CPU where torch sees none."""
    return torch.device("cuda", place().local) if torch.cuda.is_available() else torch.device("cpu")


def wait() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()
