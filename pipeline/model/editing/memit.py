r"""MEMIT: many facts at once, spread over several down projections (Meng et al. 2023, arXiv 2210.07229).

z_i is what layer L shall give at the last token of subject i (eq. 16). Layer by layer, with the keys K that
the
model edited so far has there (eq. 19) and what is still missing, shared among the layers that are left
(eq. 20), R = (z - h^L) / (L - l + 1),

.. math:: \Delta^l = R K^\top (\lambda C^l + K K^\top)^{-1}

(eq. 14, algorithm 1). Edits beyond a batch come on top, and know of the earlier ones only by the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pipeline.model.editing.editor import Asking, WeightEditor
from pipeline.model.editing.places import down, gain, layer
from pipeline.model.editing.prompts import Row, at_subject, means
from pipeline.model.editing.request import Edit
from pipeline.model.editing.statistics import Statistics, moments
from pipeline.model.editing.target import Optimisation, wanted
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Memit:
    """The values of MEMIT."""

    layers: list[int]
    """Whose down projections are changed, from below; z is what the last one's layer shall give."""
    moment_weight: float
    """λ: how much the keys of ordinary text weigh against those of the edits."""
    batch: int
    """Edits that are made at once."""
    at_once: int
    """Edits whose z are sought side by side: a matter of memory and time alone."""
    optimisation: Optimisation
    """How z is found."""
    statistics: Statistics
    """Where C comes from."""
    asking: Asking
    """How the model is asked."""

    def __post_init__(self) -> None:
        if not self.layers or sorted(set(self.layers)) != self.layers:
            raise ValueError(f"method.layers must hold rising numbers of layers, not {self.layers}")
        if self.moment_weight < 0:
            raise ValueError(f"method.moment_weight must be at least 0, not {self.moment_weight}")
        for name in ("batch", "at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.{name} must be at least 1, not {getattr(self, name)}")


class MemitEditor(WeightEditor):
    """Makes one change of several layers for each batch of edits.

    Args:
        method: its values.
        reader: the language model, in float32.
    """

    def __init__(self, method: Memit, reader: Reader) -> None:
        super().__init__(reader, method.asking, method.layers)
        self.method, self.at_once = method, method.batch
        self.moments = moments(reader, method.layers, method.statistics)

    def apply(self, edits: Sequence[Edit]) -> None:
        """Edit the model, batch by batch."""
        with tqdm(
            total=len(edits), desc="memit", unit="edit", mininterval=1.0, disable=len(edits) < 2
        ) as bar:
            for start in range(0, len(edits), self.method.batch):
                self._batch(edits[start : start + self.method.batch], bar)

    def _batch(self, edits: Sequence[Edit], bar: "tqdm[Any]") -> None:
        texts: list[Row] = []
        aims = []
        top = layer(self.reader.lm, self.layers[-1])
        for start in range(0, len(edits), self.method.at_once):
            few = edits[start : start + self.method.at_once]
            rows = self.rows(few, essence=True)
            found = wanted(self.reader, few, rows, top, self.method.optimisation)
            aims.append(found.start + found.delta)
            texts += [row.moved(start) for row in rows if row.target]
            bar.update(len(few))
        aim = torch.cat(aims)
        first = {row.edit: row for row in reversed(texts)}
        asked = [first[edit] for edit in range(len(edits))]
        for place, (number, moment) in enumerate(zip(self.layers, self.moments, strict=True)):
            module = down(self.reader.lm, number)
            taken, given = at_subject(self.reader, texts, module)
            owners = torch.tensor([row.edit for row in texts], device=taken.device)
            missing = aim - at_subject(self.reader, asked, top)[1]
            rest = missing / (len(self.layers) - place)
            rest = rest / gain(self.reader.lm, number, means(given, owners, len(edits)))
            change = spread(means(taken, owners, len(edits)), rest, moment, self.method.moment_weight)
            with torch.no_grad():
                module.weight += change.to(module.weight)


def spread(
    keys: Float[Tensor, "n I"], rest: Float[Tensor, "n C"], moment: Float[Tensor, "I I"], weight: float
) -> Float[Tensor, "C I"]:
    """Return Δ of one layer: eq. 14.

    Args:
        keys: K, an edit a row.
        rest: R, what each key shall give beyond what it gives.
        moment: C, in float64.
        weight: λ; 0 fits the keys by least squares, and needs as many of them as they have dimensions.
    """
    k, r = keys.to(moment), rest.to(moment)
    change: Tensor = torch.linalg.solve(weight * moment + k.T @ k, k.T @ r).T
    return change
