r"""ROME: a fact as a rank-one change of one down projection (Meng et al. 2022, arXiv 2202.05262).

.. math:: \hat W = W + \Lambda (C^{-1} k^*)^\top, \qquad \Lambda = \frac{v^* - W k^*}{(C^{-1} k^*)^\top k^*}

(eq. 2): of all matrices that give v* for the subject's key k* it is the one that does least to the keys of
ordinary text, whose second moment is C. Many edits are made one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pipeline.model.editing.editor import Asking, WeightEditor
from pipeline.model.editing.places import down
from pipeline.model.editing.prompts import at_subject
from pipeline.model.editing.request import Edit
from pipeline.model.editing.statistics import Statistics, moments
from pipeline.model.editing.target import Optimisation, wanted
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Rome:
    """The values of ROME."""

    layer: int
    """Whose down projection is changed."""
    optimisation: Optimisation
    """How v* is found."""
    statistics: Statistics
    """Where C comes from."""
    asking: Asking
    """How the model is asked."""


class RomeEditor(WeightEditor):
    """Makes one rank-one change an edit.

    Args:
        method: its values.
        reader: the language model, in float32.
    """

    def __init__(self, method: Rome, reader: Reader) -> None:
        super().__init__(reader, method.asking, [method.layer])
        self.method = method
        [self.moment] = moments(reader, [method.layer], method.statistics)

    def apply(self, edits: Sequence[Edit]) -> None:
        """Edit the model, one fact after another."""
        for edit in tqdm(edits, desc="rome", unit="edit", mininterval=1.0, disable=len(edits) < 2):
            self._one(edit)

    def _one(self, edit: Edit) -> None:
        rows = self.rows([edit], essence=True)
        module = down(self.reader.lm, self.method.layer)
        taken, _ = at_subject(self.reader, [row for row in rows if row.target], module)
        found = wanted(self.reader, [edit], rows, module, self.method.optimisation)
        with torch.no_grad():
            module.weight += rank_one(taken.mean(dim=0), found.delta[0], self.moment).to(module.weight)


def rank_one(
    key: Float[Tensor, " I"], more: Float[Tensor, " C"], moment: Float[Tensor, "I I"]
) -> Float[Tensor, "C I"]:
    """Return what is added to W so that the key gives `more` than before, v* - W k*: eq. 2.

    Args:
        key: k*.
        more: v* - W k*.
        moment: C, in float64; it must not be singular.
    """
    across = torch.linalg.solve(moment, key.to(moment))
    change: Tensor = torch.outer(more.to(moment), across) / (across @ key.to(moment))
    return change
