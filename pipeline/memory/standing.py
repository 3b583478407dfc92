"""The facts as they were laid out to be searched: in arrays, or in a base on disk."""

from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory import slots
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import Searcher, searcher
from pipeline.memory.base import Base
from pipeline.memory.facts import Candidates, Found
from pipeline.memory.names import Names
from pipeline.memory.numbering import Numbering
from pipeline.memory.offsets import Rows
from pipeline.memory.settings import Memory

BLOCK = 1 << 20
"""Entities whose facts are counted at once."""
QUESTIONS = 64
"""Questions searched at once: bounds the width times height of the table of facts around their entities."""


class Standing(Protocol):
    """Facts by their heads, which don't change."""

    at_once: int
    """Questions that are searched at once."""

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        ...

    def count(self, head: int) -> int:
        """Return how many facts `head` has."""
        ...

    def of(self, head: int) -> list[int]:
        """Return the facts of `head`, ascending."""
        ...

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot, ascending."""
        ...

    def nearest(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products with entities that head a fact, and these; -inf for none."""
        ...

    def found(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        dead: Rows,
    ) -> Found:
        """Return the n best facts of `heads`, but for `dead`; see `pipeline.memory.slots.search`."""
        ...


class InMemory:
    """Facts in arrays, where the vectors are.

    Args:
        adjacency: the facts that hold.
        entities: vectors.
        settings: how the entities are searched.
        nearest: what searches those that head a fact; made where it isn't given.
    """

    at_once = QUESTIONS

    def __init__(
        self,
        adjacency: Adjacency,
        entities: Float[Tensor, "E P"],
        settings: Memory,
        nearest: Searcher | None = None,
    ) -> None:
        self.adjacency = adjacency
        self._given = nearest
        self._entities = entities
        self._settings = settings

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        start = self.adjacency.by_head.start
        inside = torch.from_numpy(heads).clamp(max=len(start) - 2).to(start.device)
        counts: Rows = (start[inside + 1] - start[inside]).cpu().numpy()
        return np.where(heads < len(start) - 1, counts, 0)

    def count(self, head: int) -> int:
        """Return how many facts `head` has."""
        start = self.adjacency.by_head.start
        return int(start[head + 1] - start[head]) if head + 1 < len(start) else 0

    def of(self, head: int) -> list[int]:
        """Return the facts of `head`, ascending."""
        return self.adjacency.by_head[head]

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot, ascending."""
        rows = torch.tensor(self.of(head), dtype=torch.long, device=self.adjacency.relation.device)
        kept: list[int] = rows[self.adjacency.relation[rows] == relation].tolist()
        return kept

    @cached_property
    def searcher(self) -> Searcher:
        """What finds the entities that head a fact."""
        heads = self.adjacency.by_head.filled  # others would take a place
        if self._given is not None:
            return self._given
        some = len(heads) < len(self._entities)
        return searcher(self._entities[heads] if some else self._entities, self._settings)

    def nearest(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products with entities that head a fact, and these; -inf for none."""
        best, places = self.searcher.search(queries, n)
        return best, self.adjacency.by_head.filled[places]

    def found(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        dead: Rows,
    ) -> Found:
        """Return the n best facts of `heads`, but for `dead`."""
        groups = self.adjacency.by_head
        if not len(groups.members):
            return Found.none(len(heads), n, heads.device)
        inside = (heads >= 0) & (heads < len(groups.start) - 1) & (near > -torch.inf)
        facts, owner, valid = groups.expand(heads.masked_fill(~inside, -1))
        if len(dead):
            valid = valid & ~torch.isin(facts, torch.from_numpy(dead).to(facts.device))
        entity = near.gather(1, owner)
        relation = relation_log_probabilities.gather(1, self.adjacency.relation[facts.clamp(min=0)])
        scores = (entity + weight * relation).masked_fill(~valid, -torch.inf)
        best = Candidates.best(n, facts, scores, entity, relation, owner)
        return Found(
            best._replace(via=torch.full_like(best.via, -1)),
            best.via.clamp(min=0),
            torch.zeros(len(heads), dtype=torch.long, device=heads.device),
        )


class OnDisk:
    """Facts in a base, mapped.

    Args:
        base: the facts.
        entities: gives the vectors of its entities.
        settings: how these are searched; `codes` alone leaves their vectors on disk.
        device: of queries.
        numbering: ids of the base's facts.
    """

    at_once = QUESTIONS

    def __init__(
        self, base: Base, entities: Names, settings: Memory, device: torch.device, numbering: Numbering
    ) -> None:
        self._base = base
        self._numbering = numbering
        self._entities = entities
        self._settings = settings
        self._device = device

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        inside = heads < self._base.entities
        counts = np.zeros(len(heads), dtype=np.int64)
        counts[inside] = self._base.counts(heads[inside])
        return counts

    def count(self, head: int) -> int:
        """Return how many facts `head` has."""
        return len(self._range(head))

    def of(self, head: int) -> list[int]:
        """Return the facts of `head`, ascending."""
        span = self._range(head)
        return self._ids(np.arange(span.start, span.stop))

    def _ids(self, rows: Rows) -> list[int]:
        found: list[int] = np.sort(self._numbering.ids(rows)).tolist()
        return found

    def _range(self, head: int) -> range:
        if head >= self._base.entities:
            return range(0)
        return range(*self._base.starts.span(head))

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot, ascending."""
        if head >= self._base.entities:
            return []
        return self._ids(self._base.slot(head, relation))

    def prepare(self) -> None:
        """Read or build what the first search would."""
        if self._base.entity_codes is not None and len(self._base):
            self.nearest(torch.zeros(1, self._base.entity_codes.dimension, device=self._device), 1)

    @cached_property
    def _searcher(self) -> tuple[Searcher, Int[Tensor, " n"]]:
        starts = range(0, self._base.entities, BLOCK)
        blocks = (np.arange(i, min(i + BLOCK, self._base.entities)) for i in starts)
        filled = (rows[self._base.counts(rows) > 0] for rows in blocks)
        heads = np.concatenate([np.empty(0, np.int64), *filled])
        rows = torch.from_numpy(heads).to(self._device)
        return searcher(self._entities.gather(rows), self._settings), rows

    def nearest(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products with entities that head a fact, and these; -inf for none."""
        codes = self._base.entity_codes
        if self._settings.backend == "codes" and codes is not None:
            filled = partial(_headed, self._base)
            return codes.search(queries, n, filled, self._settings.rescored, self._settings.share)
        found, heads = self._searcher
        best, places = found.search(queries, n)
        return best, heads[places]

    def found(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        dead: Rows,
    ) -> Found:
        """Return the n best facts of `heads`, but for `dead`."""
        own = heads.masked_fill(heads >= self._base.entities, -1)
        gone = np.sort(self._numbering.rows(dead))
        found = self._best(own, near, relation_log_probabilities, weight, n, gone)
        if not self._numbering.plain:
            rows = found.candidates.facts
            there = rows >= 0
            rows[there] = torch.from_numpy(self._numbering.ids(rows[there].cpu().numpy())).to(rows)
        return found

    def _best(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        gone: Rows,
    ) -> Found:
        """Return the n best facts by their rows in the base, but for the rows `gone`, which rise."""
        found = slots.search(self._base, heads, near, relation_log_probabilities, weight, n, gone)
        columns = (part.to(self._device) for part in found.candidates)
        return Found(Candidates(*columns), found.places.to(self._device), found.left_out.to(self._device))


def _headed(base: Base, rows: Rows) -> Bool[np.ndarray, " n"]:
    """Return which entities head a fact."""
    headed: Bool[np.ndarray, " n"] = base.counts(rows) > 0
    return headed
