"""How well the facts of one memory fit a question."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import Searcher
from pipeline.memory.delta import Delta, Late
from pipeline.memory.facts import Candidates, Found, Query
from pipeline.memory.names import Names
from pipeline.memory.searching import Searching
from pipeline.memory.settings import Memory
from pipeline.memory.standing import Standing
from pipeline.memory.triples import Triples


@dataclass(frozen=True)
class Slots:
    """The facts of the slot layout by their slots."""

    adjacency: Adjacency
    vectors: Float[Tensor, "S P"]
    nearest: Searcher
    """Searches `vectors`."""

    def search(self, query: Query, n: int) -> Candidates:
        """Return the n best facts."""
        groups = self.adjacency.by_slot
        # Slots whose facts were all deleted keep their vectors: as many more are looked at.
        best, found = self.nearest.search(query.key, n + groups.empty)
        facts, owner, valid = groups.expand(found)
        entity = best.gather(1, owner)
        scores, none = entity.masked_fill(~valid, -torch.inf), torch.full_like(facts, -1)
        return Candidates.best(n, facts, scores, entity, torch.zeros_like(entity), none)


@dataclass(frozen=True)
class Scoring(Searching):
    """The facts of a memory after a change, with the vectors of their names; see `Searching`."""

    table: Triples
    standing: Standing
    delta: Delta
    at: int
    """Number of the last change of `delta` that counts."""
    entities: Names
    relations: Float[Tensor, "R P"]
    slots: Slots | None
    """None in the factored layout."""
    settings: Memory

    def heads(self, query: Query) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the entities whose facts are looked at, nearest first, and how near each is."""
        wanted = self.settings.entities
        empty, alone = self.delta.empty(self.at), self.delta.alone(self.at)
        near, heads = self.standing.nearest(query.key, wanted + len(empty))
        if not empty and not alone:
            return near, heads
        device = heads.device
        near = near.masked_fill(torch.isin(heads, torch.tensor(empty, device=device)), -torch.inf)
        if alone:
            rows = torch.tensor(alone, device=device)
            vectors = self.entities.gather(rows)
            near = torch.cat([near, (query.key.to(vectors.dtype) @ vectors.T).float()], dim=1)
            heads = torch.cat([heads, rows.expand(len(heads), -1)], dim=1)
        near, order = near.sort(dim=1, descending=True, stable=True)
        return near[:, :wanted], heads.gather(1, order)[:, :wanted]

    def found(
        self, heads: Int[Tensor, "B n"], near: Float[Tensor, "B n"], shares: Float[Tensor, "B R"], n: int
    ) -> Found:
        """Return the n best facts of `heads`, by how near these are and the relations' log-probabilities."""
        weight, changed = self.settings.relation_weight, self.delta.known(heads)
        gone = self.delta.gone(changed, self.at)
        found = self.standing.found(heads, near, shares, weight, n, gone)
        late = self.delta.late(heads, changed, self.at)
        return joined(found, late, near, shares, weight) if len(late.facts) else found

    def best_of_slots(self, query: Query, n: int) -> Candidates:
        """Return the n facts of the slots that fit best."""
        assert self.slots is not None
        return self.slots.search(query, n)

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the rows of the heads, relations and tails of `facts`."""
        return self.table.columns(facts)

    def entity_vectors(self, heads: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of entities."""
        return self.entities.gather(heads)

    def slot_vectors(self, facts: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of the slots of `facts`."""
        assert self.slots is not None
        return self.slots.vectors[self.slots.adjacency.slot[facts]]


def joined(
    found: Found, late: Late, near: Float[Tensor, "B n"], shares: Float[Tensor, "B R"], weight: float
) -> Found:
    """Return as many as were found of these and of `late`, best first; ties go by place, then by id.

    Args:
        found: the best of the other facts.
        late: facts to score.
        near: how near each head is; -inf where its facts aren't wanted.
        shares: log-probability of each relation.
        weight: of these.
    """
    facts, scores, entity, relation, via = found.candidates
    tables = [part.detach().cpu().numpy().copy() for part in (facts, scores, entity, relation, found.places)]
    close = near.detach().cpu().numpy()[late.questions, late.places]
    share = shares.detach().cpu().numpy()[late.questions, late.relations]
    columns = late.facts, close + weight * share, close, share, late.places
    for question in np.unique(late.questions[close > -np.inf]):
        own = (late.questions == question) & (close > -np.inf)
        rows = [np.append(table[question], part[own]) for table, part in zip(tables, columns, strict=True)]
        order = np.lexsort((rows[0], rows[4], -rows[1]))[: len(tables[0][question])]
        for table, row in zip(tables, rows, strict=True):
            table[question] = row[order]
    facts, scores, entity, relation, places = (torch.from_numpy(table).to(near.device) for table in tables)
    return Found(Candidates(facts, scores, entity, relation, via), places, found.left_out)
