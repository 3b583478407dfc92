r"""A cross-encoder over the best candidates: the sentence encoder reads question and slot key together.

With the mean states ā of the question's and b̄ of the key's tokens, each brought to unit length, of one pass
over both texts through the frozen encoder with low-rank changes in its upper layers,

.. math:: r = w^\top \mathrm{gelu}(W [ā ⊙ b̄ ; |ā - b̄|] + c) + d

is how much the slot answers rather than none of them, in nats: "none" has 0. It starts at zero.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.encoder import TextEncoder
from pipeline.model.lowrank import LowRank

PAIRS = 256
"""Pairs that are read at once."""


class Reranker(nn.Module):
    """The low-rank changes and the perceptron on the pooled states.

    Args:
        encoder: the frozen sentence encoder.
        projections: of its layers that get a low-rank change.
        first_layer: lowest layer that does.
        rank: r of the change.
        alpha: α of the change.
        width: inner width of the perceptron.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        projections: Sequence[str],
        first_layer: int,
        rank: int,
        alpha: float,
        width: int,
    ) -> None:
        super().__init__()
        self._model: list[Any] = [encoder]  # in a list, so that it is no part of this module
        self.lowrank = LowRank(encoder.model, projections, first_layer, rank, alpha)
        self.inner = nn.Linear(2 * encoder.dimension, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, questions: Sequence[str], keys: Sequence[str]) -> Float[Tensor, " n"]:
        """Return r of each pair."""
        encoder = self._model[0]
        parts = []
        with self.lowrank.attached(encoder.model):
            for start in range(0, len(questions), PAIRS):
                states, owners = encoder.pairs(questions[start : start + PAIRS], keys[start : start + PAIRS])
                a, b = (_mean(states, owners == part) for part in (0, 1))
                features = torch.cat([a * b, (a - b).abs()], dim=-1)
                parts.append(self.outer(F.gelu(self.inner(features)))[:, 0])
        return torch.cat(parts) if parts else torch.empty(0, device=self.outer.weight.device)


def _mean(states: Float[Tensor, "n T P"], mask: Bool[Tensor, "n T"]) -> Float[Tensor, "n P"]:
    return F.normalize((states * mask[..., None]).sum(dim=1), dim=-1)


def regrouped(
    scores: Float[Tensor, "B N"], slot: Int[Tensor, "B N"], added: Float[Tensor, "B S"]
) -> Float[Tensor, "B N"]:
    """Return the scores of candidates after S of their slots were judged again.

    Args:
        scores: of the candidates, best first; -inf where there is none.
        slot: which of the S slots each is of; S for those of none, which are never above those of any.
        added: to the scores of the slots' facts.
    """
    judged = slot < added.shape[1]
    told = scores + F.pad(added, (0, 1)).gather(1, slot)
    least = told.masked_fill(~judged, torch.inf).min(dim=-1, keepdim=True).values
    first = scores.masked_fill(judged, -torch.inf).max(dim=-1, keepdim=True).values
    over = (first - least).clamp(min=0.0).nan_to_num(nan=0.0, posinf=0.0)
    return torch.where(judged, told, scores - over)
