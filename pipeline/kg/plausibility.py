"""How plausible a fact is to RotatE: a sieve for updates that nobody vouches for.

A fact (h, r, t) says that t is where h∘r points. Among all entities that the relation is known to lead to,
how many lie nearer there than t? A tail of another kind than the relation's lies far off; one of the right
kind that is simply false may not.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from pipeline.kg.facts import Ids

LEAST = 5
"""Entities that a relation must be known to lead to, for a place among them to mean anything."""


class Plausibility:
    """Places tails among those that their relation is known to lead to.

    Args:
        entities: vectors by id; a row of zeros where an entity has none.
        relations: rotations by id, of modulus 1.
        facts: known facts, head, relation and tail: [M, 3].
        power: p of the norm over the moduli of a difference.
    """

    def __init__(
        self,
        entities: Complex[Tensor, "E d"],
        relations: Complex[Tensor, "R d"],
        facts: Ids,
        power: float = 1.0,
    ) -> None:
        self._entities, self._relations, self._power = entities, relations, power
        self._known = entities.abs().sum(dim=1) > 0
        pairs = np.unique(facts[:, [1, 2]], axis=0)
        pairs = pairs[self._known.numpy()[pairs[:, 1]]]
        bounds = np.searchsorted(pairs[:, 0], np.arange(len(relations) + 1))
        self._tails = [torch.from_numpy(pairs[start:end, 1]) for start, end in pairwise(bounds)]

    def places(self, facts: Ids) -> Float[Tensor, " n"]:
        """Return the share of a relation's known tails that lie nearer than each fact's own, from 0 to 1.

        NaN where the head or the tail has no vector, or the relation leads to fewer than `LEAST` entities.

        Args:
            facts: head, relation and tail, [n, 3].
        """
        found = torch.full((len(facts),), torch.nan)
        for row, (head, relation, tail) in enumerate(facts.tolist()):
            tails = self._tails[relation]
            if len(tails) < LEAST or not (self._known[head] and self._known[tail]):
                continue
            point = self._entities[head] * self._relations[relation]
            near = self._far(point, self._entities[tails])
            found[row] = (near < self._far(point, self._entities[tail])).float().mean()
        return found

    def _far(self, point: Complex[Tensor, " d"], others: Complex[Tensor, "... d"]) -> Float[Tensor, "..."]:
        far: Tensor = torch.linalg.vector_norm((point - others).abs(), self._power, dim=-1)
        return far


def limit(places: Float[Tensor, " n"], kept: float) -> float:
    """Return the place up to which the share `kept` of true facts lies, by those that are known to be true.

    Raises:
        ValueError: none of them has a place.
    """
    known = places[~places.isnan()]
    if not len(known):
        raise ValueError("no fact has a place: its entities have no vectors, or its relation too few tails")
    return float(torch.quantile(known, kept))


Accepts = Callable[[Ids], NDArray[np.bool_]]


def sieve(plausibility: Plausibility, at_most: float) -> Accepts:
    """Return what says which facts are plausible enough, those without a place among them."""

    def accepted(facts: Ids) -> NDArray[np.bool_]:
        places = plausibility.places(facts)
        found: NDArray[np.bool_] = ~(places > at_most).numpy()
        return found

    return accepted
