"""The Lightning loop that fits a reader: warm-up and cosine, curve, checkpoints that survive a kill."""

import math
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from pipeline.config import UserError
from pipeline.model.batches import Batches, Pool, Train
from pipeline.model.system import Example, System
from pipeline.tracking import Curve
from pipeline.trainer import Trainer


class Fitting(lightning.LightningModule):  # type: ignore[misc]
    """One system under training.

    Args:
        system: what is fitted.
        settings: optimiser and schedule.
        steps: number of steps.
        seed: of what the losses draw at each step, so that a resumed run draws the same.
        curve: where the curve is written.
    """

    def __init__(self, system: System, settings: Train, steps: int, seed: int, curve: Curve) -> None:
        super().__init__()
        self.system = system
        self.settings = settings
        self.steps = steps
        self.seed = seed
        self.curve = curve
        self.skipped = 0

    def training_step(self, batch: list[Example], number: int) -> torch.Tensor:
        """Return the loss of one batch and write its parts to the curve."""
        random.seed(f"{self.seed}/{self.global_step}")
        parts = self.system.losses(batch)
        row = {name: float(value.detach()) for name, value in parts.items()}
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"step {self.global_step}: the loss is {row['loss']}; lower train.learning_rate or "
                f"train.gradient_clip (the last checkpoint is kept)"
            )
        row["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.curve.append(step=self.global_step, **{n: row.get(n, math.nan) for n in self.curve.columns[1:]})
        self.log_dict({f"train/{name}": value for name, value in row.items()}, prog_bar=False)
        self.log("loss", row["loss"], prog_bar=True, logger=False)
        return parts["loss"]

    def transfer_batch_to_device(
        self, batch: list[Example], device: torch.device, place: int
    ) -> list[Example]:
        """Return the batch as it is: questions are text, and the system moves what it makes of them."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the run go on from here as one that resumes from this checkpoint would."""
        self.system.forget()

    def configure_gradient_clipping(self, optimizer: Any, *limit: Any, **limits: Any) -> None:
        """Clip the gradient's norm; a gradient that isn't finite is dropped, and the step counted as skipped.

        Raises:
            UserError: more than one step in a hundred was skipped, or one of the first hundred twice.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.system.parameters(), self.settings.gradient_clip)
        if torch.isfinite(norm):
            return
        self.skipped += 1
        self.system.zero_grad(set_to_none=True)
        if self.skipped > max(1, self.global_step // 100):
            raise UserError(
                f"step {self.global_step}: the gradient is not finite, for the {self.skipped}. time; "
                f"lower train.learning_rate (the last checkpoint is kept)"
            )

    def configure_optimizers(self) -> Any:
        """Return AdamW over the adapter, with warm-up and cosine."""
        named = [(n, p) for n, p in self.system.named_parameters() if p.requires_grad]
        slow = [p for n, p in named if n.startswith(self.system.fitted_before)]
        usual = [p for n, p in named if not n.startswith(self.system.fitted_before)]
        rate = self.settings.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": usual},
            {"params": slow, "lr": rate * self.settings.retrieval.joint_rate},
        ]
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=self.settings.weight_decay)

        def share(step: int) -> float:
            rise = min(1.0, (step + 1) / max(1, self.settings.warmup))
            return rise * 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


CURVE = (
    "step",
    "loss",
    "lm_loss",
    "aux_loss",
    "retrieval_accuracy",
    "temperature",
    "null_share",
    "gate",
    "learning_rate",
)


def fit(
    system: System,
    pool: Pool,
    settings: Train,
    trainer: Trainer,
    steps: int,
    seed: int,
    curve: Path,
    checkpoints: Path,
    loggers: list[Any],
    progress: bool,
) -> int:
    """Fit `system` in place, going on from the newest checkpoint of `checkpoints` where there is one.

    Args:
        system: its parameters are changed; its language model isn't.
        pool: questions to learn from.
        settings: optimiser and schedule.
        trainer: devices.
        steps: optimiser steps.
        seed: of batches and draws.
        curve: CSV file of the training curve.
        checkpoints: folder that belongs to exactly this configuration and these inputs.
        loggers: Lightning loggers.
        progress: whether to show a progress bar.

    Returns:
        How many steps were skipped because their gradient was not finite.
    """
    last = checkpoints / "last.ckpt"
    start = 0
    if last.is_file():
        start = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"])
    # The curve grows beside the checkpoints: DVC empties the folder of the outputs before a stage goes on.
    checkpoints.mkdir(parents=True, exist_ok=True)
    grown = Curve(checkpoints / curve.name, CURVE, start=start)
    module = Fitting(system, settings, steps, seed, grown)
    loader: DataLoader[Example] = DataLoader(
        _Whole(), batch_sampler=Batches(pool, settings, steps, seed, start), collate_fn=list, num_workers=0
    )
    saver = ModelCheckpoint(
        dirpath=checkpoints, every_n_train_steps=settings.checkpoint_every, save_last=True, save_top_k=0
    )
    loop = lightning.Trainer(
        **trainer.arguments(),
        max_steps=steps,
        max_epochs=-1,
        logger=loggers or False,
        log_every_n_steps=1,
        callbacks=[saver, *([TQDMProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        with system.attached(), _attention(trainer.device):
            loop.fit(module, loader, ckpt_path=last if start else None, weights_only=True)
    finally:
        shutil.copyfile(grown.path, curve)
    system.to(trainer.device)  # where Lightning took it from: its teardown leaves a model on the CPU
    return module.skipped


@contextmanager
def _attention(device: torch.device) -> Iterator[None]:
    """On a CPU, compute attention step by step: torch's fused kernel takes twice as long backwards."""
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


class _Whole(Dataset[Example]):
    """A data set whose items are its own indices: the batch sampler draws the questions themselves."""

    def __getitem__(self, item: Example) -> Example:
        return item

    def __len__(self) -> int:
        return 1
