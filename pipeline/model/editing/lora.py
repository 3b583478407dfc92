"""LoRA as an editor: one low-rank adapter of the peft library, trained on (arXiv 2106.09685).

An adapter is attached with the first edit and trained further with every batch of edits; the model's own
weights
never change. `lowrank.py` is the project's own low-rank change; here the library that the field uses is
compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.model.editing.editor import Asking, Editor
from pipeline.model.editing.finetune import Descent, fitted
from pipeline.model.editing.places import names
from pipeline.model.editing.request import Edit
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The values of LoRA."""

    projections: list[str]
    """Names of linear modules in a layer that get a low-rank change; [] takes those of the queries and
    values."""
    rank: int
    """Of the change."""
    rank_alpha: float
    """What the change is scaled by, times the rank."""
    descent: Descent
    """How it is trained."""
    asking: Asking
    """How the model is asked."""
    seed: int
    """Of the adapter's first values."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.rank_alpha <= 0:
            raise ValueError("method.rank must be at least 1 and method.rank_alpha above 0")


class LoraEditor(Editor):
    """Trains one adapter on batches of edits, one after another.

    Args:
        method: its values.
        reader: the language model.

    Raises:
        UserError: the peft library isn't there, or the model has no projection of a name.
    """

    def __init__(self, method: Lora, reader: Reader) -> None:
        super().__init__(reader, method.asking)
        self.method, self.at_once = method, method.descent.batch
        self._projections = method.projections or list(names(reader.lm).attention)
        known = {name.split(".")[-1] for name, m in reader.lm.named_modules() if hasattr(m, "in_features")}
        for projection in self._projections:
            if projection not in known:
                raise UserError(
                    f"method.projections: the model has no projection {projection!r}; it has "
                    f"{', '.join(sorted(known))}"
                )
        try:
            import peft
        except ImportError as error:
            raise UserError(
                "method=lora needs the library peft: pip install -c constraints.txt 'living-memory[edit]'"
            ) from error
        self._library: Any = peft
        self._adapted: Any = None

    def apply(self, edits: Sequence[Edit]) -> None:
        """Train the adapter on the edits, attaching it first where there is none."""
        _ = self.before  # written by the bare model
        if self._adapted is None:
            config = self._library.LoraConfig(
                r=self.method.rank,
                lora_alpha=self.method.rank_alpha,
                target_modules=self._projections,
                lora_dropout=0.0,
            )
            devices = [self.reader.device] if self.reader.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(self.method.seed)
                self._adapted = self._library.get_peft_model(self.reader.lm, config).eval()
        fitted(self, edits, self.parameters, self.method.descent, "lora")

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained; nothing before the first edit."""
        if self._adapted is None:
            return []
        return [weight for name, weight in self._adapted.named_parameters() if "lora_" in name]

    def undo(self) -> None:
        """Take the adapter off; the model's own weights were never changed."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None
            self.reader.lm.requires_grad_(False)

    @property
    def bytes(self) -> int:
        """What the adapter takes."""
        return sum(weight.nbytes for weight in self.parameters)
