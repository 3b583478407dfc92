"""Vectors of new entities in RotatE's space, without training and without the library that trained it."""

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor


def fold_in(
    neighbours: Complex[Tensor, "n d"],
    relations: Complex[Tensor, "n d"],
    incoming: Bool[Tensor, " n"],
    weights: Float[Tensor, " n"] | None = None,
) -> Complex[Tensor, " d"]:
    """Return a vector for a new entity from its facts, without training (InvRotatE, arXiv 2009.12765).

    e* = Σ wᵢ xᵢ / Σ wᵢ with x = h∘r for a fact (h, r, e) and x = t∘r̄ for (e, r, t): the least-squares
    solution of all its facts, and exact where they hold exactly.

    Args:
        neighbours: the other entity of each fact.
        relations: rotations, of modulus 1.
        incoming: true where the new entity is the tail.
        weights: of the facts, not negative; equal where not given.

    Raises:
        ValueError: there is no fact, or no weight above 0.
    """
    given = torch.ones(len(neighbours), device=neighbours.device) if weights is None else weights
    if not len(neighbours) or not (given >= 0).all() or given.sum() <= 0:
        raise ValueError(f"fold_in needs a fact with a weight above 0, found weights {given.tolist()}")
    points = neighbours * torch.where(incoming[:, None], relations, relations.conj())
    return (given[:, None] * points).sum(dim=0) / given.sum()
