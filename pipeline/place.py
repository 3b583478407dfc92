"""Which one this process is of those that were started together.

They are started by torchrun (`python -m torch.distributed.run`), by SLURM's `srun`, or by the stage itself
(`pipeline.together`), and all tell by the environment.
"""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """A process among those that were started together."""

    rank: int
    """Its number among all of them."""
    world: int
    """How many they are."""
    local: int
    """Its number on its host, which is that of its GPU."""


def place() -> Place:
    """Return the place that torchrun or `srun` gave to this process; (0, 1, 0) where none did.

    The script of a job of SLURM is one process, whatever tasks the job has: only a step's tasks are several.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return Place(0, 1, 0)
    return Place(*(int(os.environ[name]) for name in names))


def first() -> bool:
    """Return whether this process is the one that writes."""
    return place().rank == 0
