"""Vectors of new entities in RotatE's space, without training and without the library that trained it.

Every fact of an entity says where it should be: at x = h∘r for a fact (h, r, e), at x = t∘r̄ for (e, r, t).
An estimate is a centre of these points: their mean (InvRotatE, arXiv 2009.12765) or, in each dimension,
their geometric median. `pipeline.kg.placing` folds whole graphs in, and has a third estimate.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

TOLERANCE = 1e-5
"""A median is found when no dimension moves by more than this share of the points' mean distance from it."""

ROUNDS = 200
"""Of Weiszfeld's algorithm at most."""

_HIT = 1e-6
"""A centre this share of the mean distance from a point counts as being at that point."""


def fold_in(
    neighbours: Complex[Tensor, "n d"],
    relations: Complex[Tensor, "n d"],
    incoming: Bool[Tensor, " n"],
    weights: Float[Tensor, " n"] | None = None,
    centre: str = "mean",
) -> Complex[Tensor, " d"]:
    """Return a vector for a new entity from its facts, without training (InvRotatE, arXiv 2009.12765).

    `mean`: e* = Σ wᵢ xᵢ / Σ wᵢ, the least-squares solution of all its facts. `median`: the point with the
    least Σ wᵢ |xᵢ − e| in each dimension, which less than half of the weight can't carry away. Both are
    exact where all facts hold exactly.

    Args:
        neighbours: the other entity of each fact.
        relations: rotations, of modulus 1.
        incoming: true where the new entity is the tail.
        weights: of the facts, not negative; equal where not given.
        centre: one of `CENTRES`.

    Raises:
        ValueError: there is no fact, no weight above 0, or no such centre.
    """
    given = torch.ones(len(neighbours), device=neighbours.device) if weights is None else weights
    if not len(neighbours) or not (given >= 0).all() or given.sum() <= 0:
        raise ValueError(f"fold_in needs a fact with a weight above 0, found weights {given.tolist()}")
    if centre not in CENTRES:
        raise ValueError(f"fold_in: centre must be one of {', '.join(CENTRES)}, not {centre!r}")
    rows = torch.zeros(len(neighbours), dtype=torch.long, device=neighbours.device)
    return CENTRES[centre](neighbours * turns(relations, incoming), given, rows, 1)[0]


def turns(relations: Complex[Tensor, "n d"], incoming: Bool[Tensor, " n"]) -> Complex[Tensor, "n d"]:
    """Return what turns the other entity of each fact into the point where the entity should be."""
    return torch.where(incoming[:, None], relations, relations.conj())


def means(
    points: Complex[Tensor, "n d"], weights: Float[Tensor, " n"], rows: Int[Tensor, " n"], count: int
) -> Complex[Tensor, "count d"]:
    """Return the weighted mean of the points of each row; 0 for a row without weight."""
    total = _sums(weights, rows, count)
    return _sums(weights[:, None] * points, rows, count) / total.where(total > 0, 1)[:, None]


def medians(
    points: Complex[Tensor, "n d"], weights: Float[Tensor, " n"], rows: Int[Tensor, " n"], count: int
) -> Complex[Tensor, "count d"]:
    """Return the weighted geometric median of the points of each row, in each dimension.

    Weiszfeld's algorithm as Vardi and Zhang (2000, PNAS 97) mend it: y ← (1 − γ)·T(y) + γ·y, where T(y) is
    the mean with weights wᵢ/|xᵢ − y| and γ is above 0 at a point alone. It starts at the mean and ends after
    `ROUNDS` or when nothing moves by `TOLERANCE`. Where the nearest point is itself a median (the others pull
    at it with less than its weight, their lemma), it is taken as it is, for the way to it is slow. One fact
    gives its point; two of equal weight the middle, where any point between them is a median.
    """
    centre = means(points, weights, rows, count)
    for _ in range(ROUNDS):
        force, strength, here, spread = _pull(points, weights, rows, centre)
        kept = 1 - (here / force.abs().clamp(min=1e-30)).clamp(max=1)
        step = torch.where(strength > 0, kept * force / strength.where(strength > 0, 1), 0)
        centre = centre + step
        if bool((step.abs() <= TOLERANCE * spread).all()):
            break
    away = (points - centre[rows]).abs()
    least = away.new_full(centre.shape, torch.inf)
    least.scatter_reduce_(0, rows[:, None].expand_as(away), away, "amin")
    closest = away <= least[rows]
    # Several at the same distance are the same point, or their mean fails the test below.
    nearest = _sums(points * closest, rows, count) / _sums(closest.to(away.dtype), rows, count).clamp(min=1)
    force, _, here, _ = _pull(points, weights, rows, nearest)
    # A tie is no reason to leave the middle of two facts.
    return torch.where(force.abs() < (1 - TOLERANCE) * here, nearest, centre)


def _pull(
    points: Complex[Tensor, "n d"],
    weights: Float[Tensor, " n"],
    rows: Int[Tensor, " n"],
    centre: Complex[Tensor, "count d"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of centres y: Σ wᵢ (xᵢ − y)/|xᵢ − y|, Σ wᵢ/|xᵢ − y|, the weight at y, and the mean distance."""
    away = points - centre[rows]
    total = _sums(weights, rows, len(centre))
    spread = _sums(weights[:, None] * away.abs(), rows, len(centre)) / total.where(total > 0, 1)[:, None]
    at = away.abs() <= _HIT * spread[rows]
    pull = torch.where(at, 0, weights[:, None] / away.abs().where(~at, 1))
    force = _sums(pull * away, rows, len(centre))
    here = _sums(weights[:, None] * at, rows, len(centre))
    return force, _sums(pull, rows, len(centre)), here, spread


CENTRES: dict[str, Callable[..., Tensor]] = {"mean": means, "median": medians}
"""Centres of points, of many entities at once: `rows` says whose point each is (compressed rows)."""


def _sums(values: Tensor, rows: Int[Tensor, " n"], count: int) -> Tensor:
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, rows, values)
