"""How well facts fit a question: the coarse search, given facts, and facts one hop further on."""

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
from pipeline.memory.settings import Memory
from pipeline.memory.standing import Standing
from pipeline.memory.triples import Triples
from pipeline.shapes import CandidateFacts


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
class Scoring:
    """The facts of a memory after a change, with the vectors of their names.

    A fact (h, r, t) scores q_e·e_h + w · log softmax_r(q_r·R) in the factored layout and q_k·b in the slot
    layout, with the slot's vector b; facts of one slot score alike. A query for two hops adds
    w · log p₂: of no second relation where a fact answers by itself, of r' where a fact (t, r', u) answers
    that the first one leads to.
    """

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

    def search(self, query: Query, n: int) -> Candidates:
        """Return the n best facts, best first."""
        if self.slots is not None:
            first = self.slots.search(query, n)
        else:
            near, heads = self._heads(query)
            logits = query.relation.float() @ self.relations.float().T
            first = self._facts(heads, near, torch.log_softmax(logits, dim=-1), n).candidates
        return first if query.second is None else self._followed(query, first, n)

    def _heads(self, query: Query) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
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

    def _facts(
        self, heads: Int[Tensor, "B n"], near: Float[Tensor, "B n"], shares: Float[Tensor, "B R"], n: int
    ) -> Found:
        """Return the n best facts of `heads`, by how near these are and the relations' log-probabilities."""
        weight, changed = self.settings.relation_weight, self.delta.known(heads)
        gone = self.delta.gone(changed, self.at)
        found = self.standing.found(heads, near, shares, weight, n, gone)
        late = self.delta.late(heads, changed, self.at)
        return joined(found, late, near, shares, weight) if len(late.facts) else found

    def score(self, query: Query, facts: CandidateFacts, via: CandidateFacts | None = None) -> Candidates:
        """Return given facts with their scores, with gradients into the query; -inf where the id is -1.

        Args:
            query: what is asked.
            facts: ids.
            via: the fact that leads to each of them, -1 where it answers by itself.
        """
        none = facts < 0
        via = torch.full_like(facts, -1) if via is None else via
        asked = torch.where(via < 0, facts, via)
        rows = asked.clamp(min=0)
        heads, relations, _ = self.table.columns(rows)
        if self.slots is None:
            keys = self.entities.gather(heads)
            logits = query.relation.float() @ self.relations.float().T
            relation = torch.log_softmax(logits, dim=-1).gather(1, relations)
        else:
            keys = self.slots.vectors[self.slots.adjacency.slot[rows]]
            relation = torch.zeros(facts.shape, device=query.key.device)
        entity = torch.einsum("bp,bnp->bn", query.key, keys.float())
        if query.second is not None:
            later = self.table.columns(facts.clamp(min=0))[1].masked_fill(via < 0, len(self.relations))
            relation = relation + self._second(query).gather(1, later)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(none, -torch.inf)
        return Candidates(facts, scores, entity.masked_fill(none, 0.0), relation.masked_fill(none, 0.0), via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        heads, relations, _ = self.table.columns(facts.clamp(min=0))
        keys = self.entities.gather(heads).float() + self.relations[relations].float()
        return keys.masked_fill((facts < 0)[..., None], 0.0)

    def _second(self, query: Query) -> Float[Tensor, "B R1"]:
        """Return the log-probability of each second relation and, last, of none."""
        assert query.second is not None
        assert query.stop is not None
        logits = query.second.float() @ self.relations.float().T
        return torch.log_softmax(torch.cat([logits, query.stop.float()], dim=-1), dim=-1)

    def _followed(self, query: Query, first: Candidates, n: int) -> Candidates:
        """Return the n best of `first`, as answers, and of what the best of them lead to."""
        second, weight = self._second(query), self.settings.relation_weight
        stop = second[:, -1:]
        beam = [part[:, : self.settings.beam] for part in first]
        tails = self.table.columns(beam[0].clamp(min=0))[2]
        (facts, scores, _, after, _), places, _ = self._facts(tails, beam[1], second[:, :-1], n)
        _, _, entity, relation, _ = (part.gather(1, places) for part in beam)
        found = Candidates.best(
            n,
            torch.cat([first.facts, facts], dim=1),
            torch.cat([first.scores + weight * stop, scores], dim=1),
            torch.cat([first.entity, entity], dim=1),
            torch.cat([first.relation + stop, relation + after], dim=1),
            torch.cat([first.via, beam[0].gather(1, places)], dim=1),
        )
        # Two ways may lead to one fact: the better one counts.
        again = (found.facts[:, :, None] == found.facts[:, None, :]).tril(-1).any(dim=-1)
        kept = found.scores.masked_fill(again, -torch.inf)
        return Candidates.best(n, found.facts, kept, *found[2:])


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
