"""The stage `train` in two processes, the second of which is killed once in mid-training."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from pipeline.model.fitting import Fitting
from pipeline.place import first, place
from pipeline.together import together
from pipeline.train import train
from pipeline.trainer import Trainer

KILLED_AT = 5
"""The step that the second process doesn't live to end, after the checkpoint of the fourth."""


@together
def train_and_lose(trainer: Trainer, steps: Path, **given: Any) -> None:
    """Train, noting the number of the attempt and of each step in `steps`."""
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    real = Fitting.training_step

    def step(module: Fitting, batch: Any, number: int) -> torch.Tensor:
        if attempt == 0 and place().rank == 1 and module.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        if first():
            with steps.open("a", encoding="utf-8") as file:
                file.write(f"{attempt} {module.global_step}\n")
        return real(module, batch, number)

    Fitting.training_step = step  # type: ignore[method-assign]
    train.run(trainer=trainer, **given)  # type: ignore[attr-defined]
