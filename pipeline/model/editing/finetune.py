r"""Fine-tuning as an editor: FT and FT+L of ROME (arXiv 2202.05262, appendix E.1; arXiv 2012.00363).

Adam on the down projections of a few layers until the edits' loss is small, each weight held within ε of what
it was before this batch of edits (an L∞ ball; FT has none).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.config import UserError
from pipeline.model.editing.editor import Asking, Editor, WeightEditor
from pipeline.model.editing.places import down
from pipeline.model.editing.prompts import Batch
from pipeline.model.editing.request import Edit
from pipeline.model.editing.target import losses_of
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How parameters are fitted to edits."""

    steps: int
    """Steps of Adam for a batch of edits at most."""
    learning_rate: float
    """Of Adam."""
    enough: float
    """Loss in nats at which a batch is done."""
    batch: int
    """Edits that are learned together; those before are not seen again."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.descent.{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0 or self.enough < 0:
            raise ValueError("method.descent.learning_rate must be above 0 and enough at least 0")


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """The values of fine-tuning."""

    layers: list[int]
    """Whose down projections are trained."""
    radius: float
    """ε, by which a weight may move for a batch of edits; 0 sets no bound."""
    descent: Descent
    """How they are trained."""
    asking: Asking
    """How the model is asked."""

    def __post_init__(self) -> None:
        if not self.layers or sorted(set(self.layers)) != self.layers:
            raise ValueError(f"method.layers must hold rising numbers of layers, not {self.layers}")
        if self.radius < 0:
            raise ValueError(f"method.radius must be at least 0, not {self.radius}")


class FinetuneEditor(WeightEditor):
    """Trains down projections on batches of edits, one after another.

    Args:
        method: its values.
        reader: the language model, in float32.
    """

    def __init__(self, method: Finetune, reader: Reader) -> None:
        super().__init__(reader, method.asking, method.layers)
        self.method, self.at_once = method, method.descent.batch
        self._weights = [down(reader.lm, number).weight for number in method.layers]

    def apply(self, edits: Sequence[Edit]) -> None:
        """Edit the model, batch by batch."""
        try:
            for weight in self._weights:
                weight.requires_grad_(True)
            fitted(self, edits, self._weights, self.method.descent, "finetune", self.method.radius)
        finally:
            for weight in self._weights:
                weight.requires_grad_(False)
                weight.grad = None


def fitted(
    editor: Editor,
    edits: Sequence[Edit],
    parameters: Sequence[Tensor],
    descent: Descent,
    name: str,
    radius: float = 0.0,
) -> None:
    """Fit `parameters`, which require gradients, to the edits, batch by batch.

    Raises:
        UserError: a loss is not a number; the text names the fact.
    """
    starts = range(0, len(edits), descent.batch)
    for start in tqdm(starts, desc=name, unit="batch", mininterval=1.0, disable=len(starts) < 2):
        few = edits[start : start + descent.batch]
        batch = Batch(editor.reader, editor.rows(few, essence=False), still=False)
        former = [parameter.detach().clone() for parameter in parameters] if radius else []
        optimizer = torch.optim.Adam(list(parameters), lr=descent.learning_rate)
        every = torch.arange(len(batch.rows), device=editor.reader.device)
        for step in range(descent.steps):
            with torch.enable_grad():
                lost = losses_of(batch, batch.states(), every, len(few))
            for edit, loss in zip(few, lost.tolist(), strict=True):
                if not math.isfinite(loss):
                    raise UserError(
                        f"the edit {edit.name!r}: the loss at step {step} is {loss}; lower "
                        "method.descent.learning_rate"
                    )
            if float(lost.detach().max()) < descent.enough:
                break
            optimizer.zero_grad()
            torch.autograd.backward(lost.mean(), inputs=list(parameters))
            optimizer.step()
            with torch.no_grad():
                for parameter, kept in zip(parameters, former, strict=False):
                    parameter.copy_(torch.minimum(torch.maximum(parameter, kept - radius), kept + radius))
