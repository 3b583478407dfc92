"""Checkpoints of RotatE's training: how far it has come, the weights, the optimiser and the best vectors."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pykeen.models import ERModel
from torch import Tensor

from pipeline.config import UserError
from pipeline.kg.rotate_steps import Steps

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far training has come: what a checkpoint keeps beside the weights."""

    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_mrr: float = -1.0
    waited: int = 0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def save(
    path: Path,
    model: ERModel,
    steps: Steps,
    progress: Progress,
    best: tuple[Tensor, ...],
) -> None:
    """Write a checkpoint that a kill can't leave half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": steps.state_dict(),
        "progress": asdict(progress),
        "best": best,
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(
    path: Path, model: ERModel, steps: Steps, device: torch.device
) -> tuple[Progress, tuple[Tensor, ...]]:
    """Restore a checkpoint of `save` into `model` and `steps`; return its progress and best vectors.

    Raises:
        UserError: the file can't be read.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        steps.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    except Exception as error:
        raise UserError(f"{path}: damaged checkpoint ({error}); delete it to train from the start") from error
    logger.info("resuming from %s after epoch %d", path, progress.epoch)
    return progress, tuple(state["best"])
