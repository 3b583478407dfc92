"""RotatE's loss on a batch, whichever way the batch's vectors were come by.

`Vectors` hands out what a batch needs: out of the whole table (dense gradients) or out of a copy of the
rows that occur in it (row-sparse gradients). The loss itself is PyKEEN's NSSALoss, or the cross-entropy
over all entities.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Complex, Float, Int
from pykeen.losses import NSSALoss
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.kg.rotate import SIDES, Rotate, candidate_scores, distances, rotated, shared_distances

GIVEN, ANSWER = {"tail": 0, "head": 2}, {"tail": 2, "head": 0}
"""Columns of a fact: what a side's question gives, and what it asks for."""


class Vectors(Protocol):
    """The vectors that the questions of a batch of B facts need."""

    def given(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the entities that the questions of a side give."""

    def turns(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the rotations of the questions of a side."""


def drawn(rotate: Rotate, entities: int, facts: int, generator: torch.Generator) -> Int[Tensor, "groups N"]:
    """Return the negatives of one side of a batch: uniform, not filtered, as the original has it.

    `self_adversarial` has as many groups as facts, `shared` one for every `rotate.sharing` facts.
    """
    groups = facts if rotate.trainer == "self_adversarial" else -(-facts // rotate.sharing)
    shape = (groups, rotate.negatives)
    return torch.randint(entities, shape, generator=generator, device=generator.device)


def sampled_loss(
    rotate: Rotate,
    loss: NSSALoss,
    queries: Complex[Tensor, "B d"],
    answers: Complex[Tensor, "B 1 d"],
    negatives: Complex[Tensor, "groups N d"],
) -> Float[Tensor, ""]:
    """Return PyKEEN's NSSALoss of one side of a batch."""
    positive = candidate_scores(queries, answers, rotate.norm)
    if rotate.trainer == "shared":
        negative = -shared_distances(queries, negatives, rotate.sharing, rotate.norm)
    else:
        negative = candidate_scores(queries, negatives, rotate.norm)
    total: Tensor = loss.process_slcwa_scores(positive, negative)
    return total


def full_loss(
    rotate: Rotate,
    queries: Complex[Tensor, "B d"],
    entities: Complex[Tensor, "E d"],
    answers: Int[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Return −log softmax over all entities of minus the distance, at the answers."""
    logits = -distances(queries, entities, rotate.norm)
    return cross_entropy(logits, answers, label_smoothing=rotate.label_smoothing)


def batch_loss(
    rotate: Rotate,
    vectors: Vectors,
    side_loss: Callable[[str, Tensor], Tensor],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the mean loss of both sides of a batch, with dropout and N3 as configured.

    Args:
        rotate: how.
        vectors: of the batch.
        side_loss: the loss of a side, given its queries, [B, d]: the points its answers should be near.
        generator: of dropout.
    """
    total: Tensor | float = 0.0
    for side in SIDES:
        given = vectors.given(side)
        queries = rotated(given, vectors.turns(side), "tail" if rotate.inverse_relations else side)
        if rotate.dropout > 0:
            chance = torch.full(queries.shape, 1 - rotate.dropout, device=queries.device)
            queries = queries * torch.bernoulli(chance, generator=generator) / (1 - rotate.dropout)
        total = total + side_loss(side, queries) / len(SIDES)
        if rotate.regularisation > 0:
            total = total + rotate.regularisation * given.abs().pow(3).sum(dim=1).mean()
    assert isinstance(total, Tensor)
    return total
