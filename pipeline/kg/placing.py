"""Folds all new entities of a graph in at once, the third estimate, and what facts weigh.

RotatE that is trained against all entities (softmax or negatives) doesn't put an entity at the centre of its
points: what counts is that its answers come before all others. `discriminant` solves that in closed form, by
least squares over one right answer among all known entities for every fact (Fisher's discriminant; the
implicit feedback of Hu, Koren and Volinsky 2008). With z the known entities, μ their mean and H their
covariance E[(z − μ)(z − μ)ᴴ], and uᵢ what turns zᵢ into the point xᵢ of fact i (`pipeline.kg.foldin.turns`),
each point is seen before the cloud of all entities turned alike: its mean is μ∘uᵢ, its covariance H ⊙ uᵢuᵢᴴ.

    e* ∝ (H ⊙ Σ wᵢ uᵢuᵢᴴ + ρ·tr(H)/d·I)⁻¹ Σ wᵢ (zᵢ − μ)∘uᵢ,    Σ wᵢ = 1

with the ridge ρ. Entities are taken to spread alike in all directions of each complex plane: their
pseudo-covariance E[(z − μ)(z − μ)ᵀ] is left out. `length: known` gives any estimate the known entities' mean
length: a mean is shorter than what it is the mean of.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from pipeline.kg.foldin import CENTRES, means, turns

CHOICES = {
    "estimate": (*CENTRES, "discriminant"),
    "weights": ("equal", "residual", "rarity"),
    "length": ("own", "known"),
}
"""What the keys of `Placing` that name something may name."""


@dataclass(frozen=True, kw_only=True)
class Placing:
    """How new entities get their vectors."""

    estimate: str
    """mean (InvRotatE), median (per dimension, geometric) or discriminant."""
    weights: str
    """Of facts: equal; residual, 1 / the relation's mean |h∘r − t|² over known facts; or rarity, 1 / √ of the
    known facts with the same neighbour, relation and side (that a person is human says little)."""
    centred: bool
    """Whether points are taken from the mean of the known entities; discriminant always does."""
    length: str
    """own (what the estimate gives) or known (the mean length of the known entities)."""
    ridge: float
    """ρ of discriminant, in units of H's mean variance; the larger, the nearer to the centred mean."""
    rounds: int
    """At most. The first takes facts with known entities alone; each further one also those with entities
    that got their vector in rounds before."""
    again: bool
    """Whether further rounds fold all new entities in again, or those alone that have no vector yet."""

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(
                    f"placing.{key} must be one of {', '.join(known)}, not {getattr(self, key)!r}"
                )
        if not self.ridge > 0:
            raise ValueError(f"placing.ridge must be above 0, not {self.ridge}")
        if self.rounds < 1:
            raise ValueError(f"placing.rounds must be at least 1, not {self.rounds}")


@dataclass(frozen=True)
class Ends:
    """Facts as each of their ends sees them: the entity, the other one, and what turns that into a point."""

    entity: Int[Tensor, " n"]
    other: Int[Tensor, " n"]
    relation: Int[Tensor, " n"]
    incoming: Bool[Tensor, " n"]

    @classmethod
    def of(cls, facts: Int[Tensor, "M 3"]) -> "Ends":
        """Return both ends of each fact; facts of an entity with itself say nothing and are left out."""
        head, relation, tail = facts[facts[:, 0] != facts[:, 2]].T
        tails = torch.arange(2 * len(head), device=head.device) < len(head)
        return cls(torch.cat([tail, head]), torch.cat([head, tail]), relation.repeat(2), tails)

    def __getitem__(self, which: Tensor) -> "Ends":
        return Ends(self.entity[which], self.other[which], self.relation[which], self.incoming[which])


def place(
    entities: Complex[Tensor, "E d"],
    relations: Complex[Tensor, "R d"],
    known: Bool[Tensor, " E"],
    facts: Int[Tensor, "M 3"],
    placing: Placing,
) -> tuple[Complex[Tensor, "E d"], Bool[Tensor, " E"]]:
    """Return the entities with vectors for new ones, and which have one now.

    Args:
        entities: trained vectors; rows of others are not read.
        relations: rotations; those of the tail side, where there are two kinds.
        known: which entities are trained; they stay as they are.
        facts: all that are given, those between known entities too (weights are taken from them).
        placing: how.

    Raises:
        ValueError: no entity is known.
    """
    if not known.any():
        raise ValueError("place needs an entity that is known")
    ends = Ends.of(facts)
    weights = _weights(entities, relations, known, ends, placing.weights)
    background = _Background.of(entities[known])
    fresh = ~known[ends.entity]
    ends, weights = ends[fresh], weights[fresh]
    placed, vectors = known.clone(), torch.where(known[:, None], entities, 0)
    for _ in range(placing.rounds):
        usable = placed[ends.other] & (weights > 0)
        if not placing.again:
            usable &= ~placed[ends.entity]
        if not usable.any():
            break
        now = ends[usable]
        rows, which = torch.unique(now.entity, return_inverse=True)
        found = _estimate(
            vectors[now.other], relations, now, weights[usable], which, len(rows), background, placing
        )
        vectors, placed = vectors.clone(), placed.clone()
        vectors[rows], placed[rows] = found, True
    return vectors, placed


@dataclass(frozen=True)
class _Background:
    """What the known entities are like: their mean, covariance and mean length."""

    mean: Complex[Tensor, " d"]
    covariance: Complex[Tensor, "d d"]
    length: float

    @classmethod
    def of(cls, known: Complex[Tensor, "K d"]) -> "_Background":
        mean = known.mean(dim=0)
        away = known - mean
        lengths = known.abs().square().sum(dim=1).sqrt()
        return cls(mean, away.T @ away.conj() / len(known), float(lengths.mean()))


def _estimate(
    neighbours: Complex[Tensor, "n d"],
    relations: Complex[Tensor, "R d"],
    ends: Ends,
    weights: Float[Tensor, " n"],
    rows: Int[Tensor, " n"],
    count: int,
    background: _Background,
    placing: Placing,
) -> Complex[Tensor, "count d"]:
    turn = turns(relations[ends.relation], ends.incoming)
    discriminant = placing.estimate == "discriminant"
    centred = placing.centred or discriminant
    points = (neighbours - background.mean if centred else neighbours) * turn
    found = CENTRES["mean" if discriminant else placing.estimate](points, weights, rows, count)
    if discriminant:
        order = torch.argsort(rows, stable=True)
        sizes = torch.bincount(rows, minlength=count).tolist()
        parts = zip(torch.split(turn[order], sizes), torch.split(weights[order], sizes), strict=True)
        found = torch.stack(
            [
                _unmixed(at, turn, w, background, placing.ridge)
                for at, (turn, w) in zip(found, parts, strict=True)
            ]
        )
    if placing.length == "known":
        lengths = found.abs().square().sum(dim=1, keepdim=True).sqrt()
        found = found * (background.length / lengths.clamp(min=1e-12))
    return found


def _unmixed(
    point: Complex[Tensor, " d"],
    turn: Complex[Tensor, "n d"],
    weights: Float[Tensor, " n"],
    background: _Background,
    ridge: float,
) -> Complex[Tensor, " d"]:
    """Return the mean point with the correlations of the turned background taken out."""
    mixed = (turn * (weights / weights.sum())[:, None]).T @ turn.conj()
    matrix = background.covariance * mixed
    # All entities alike would leave nothing to divide by.
    matrix.diagonal().add_(ridge * background.covariance.diagonal().real.mean() + 1e-12)
    solved: Tensor = torch.linalg.solve(matrix, point)
    return solved


def _weights(
    entities: Complex[Tensor, "E d"],
    relations: Complex[Tensor, "R d"],
    known: Bool[Tensor, " E"],
    ends: Ends,
    kind: str,
) -> Float[Tensor, " n"]:
    """Return the weight of each fact for the entity at that end; an unknown relation has the least."""
    if kind == "equal":
        return torch.ones(len(ends.entity), device=entities.device)
    sure = known[ends.entity] & known[ends.other]
    if kind == "residual":
        ours = ends[sure & ends.incoming]
        away = entities[ours.other] * relations[ours.relation] - entities[ours.entity]
        squares = away.abs().square().sum(dim=1)
        ones = torch.ones_like(squares)
        loose = means(squares[:, None].to(entities.dtype), ones, ours.relation, len(relations))[:, 0].real
        there = torch.bincount(ours.relation, minlength=len(relations)) > 0
        floor = 1e-6 * float(loose.max().clamp(min=1e-12))
        loose = torch.where(there, loose.clamp(min=floor), loose.max().clamp(min=floor))
        return (loose.mean() / loose)[ends.relation]
    slot = (ends.other * len(relations) + ends.relation) * 2 + ends.incoming
    slots, which = torch.unique(slot, return_inverse=True)
    counts = torch.bincount(which[sure], minlength=len(slots))
    return counts[which].clamp(min=1).float().rsqrt()
