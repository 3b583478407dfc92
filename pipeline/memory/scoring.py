"""How well facts fit a question: the coarse search, given facts, and facts one hop further on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import Searcher
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.settings import Memory
from pipeline.shapes import CandidateFacts

BATCH = 64
"""Questions searched at once: bounds the width times height of the table of facts around their entities."""


@dataclass(frozen=True)
class Scoring:
    """The live facts with the vectors of their names.

    A fact (h, r, t) scores q_e·e_h + w · log softmax_r(q_r·R) in the factored layout and q_k·b in the slot
    layout, with the slot's vector b; facts of one slot score alike. A query for two hops adds
    w · log p₂: of no second relation where a fact answers by itself, of r' where a fact (t, r', u) answers
    that the first one leads to.
    """

    adjacency: Adjacency
    entities: Float[Tensor, "E P"]
    relations: Float[Tensor, "R P"]
    slots: Float[Tensor, "S P"]
    settings: Memory

    def search(self, query: Query, n: int, nearest: Searcher) -> Candidates:
        """Return the n best facts, best first; `nearest` searches slots, or the entities that head facts."""
        adjacency = self.adjacency
        if self.settings.layout == "slot":
            # Slots whose facts were all deleted keep their vectors: as many more are looked at.
            best, groups = nearest.search(query.key, n + adjacency.by_slot.empty)
            facts, owner, valid = adjacency.by_slot.expand(groups)
        else:
            best, places = nearest.search(query.key, self.settings.entities)
            facts, owner, valid = adjacency.by_head.expand(adjacency.by_head.filled[places])
        entity = best.gather(1, owner)
        relation = self._relation(query, facts)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(~valid, -torch.inf)
        first = Candidates.best(n, facts, scores, entity, relation, torch.full_like(facts, -1))
        return first if query.second is None else self._followed(query, first, n)

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
        adjacency = self.adjacency
        slot = self.settings.layout == "slot"
        keys = self.slots[adjacency.slot[rows]] if slot else self.entities[adjacency.head[rows]]
        entity = torch.einsum("bp,bnp->bn", query.key, keys.float())
        relation = self._relation(query, asked)
        if query.second is not None:
            after = adjacency.relation[facts.clamp(min=0)].masked_fill(via < 0, len(self.relations))
            relation = relation + self._second(query).gather(1, after)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(none, -torch.inf)
        return Candidates(facts, scores, entity.masked_fill(none, 0.0), relation.masked_fill(none, 0.0), via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        rows = facts.clamp(min=0)
        heads = self.entities[self.adjacency.head[rows]].float()
        keys = heads + self.relations[self.adjacency.relation[rows]].float()
        return keys.masked_fill((facts < 0)[..., None], 0.0)

    def _relation(self, query: Query, facts: Int[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """Return the log-probability of the facts' relations; 0 in the slot layout."""
        if self.settings.layout == "slot":
            return torch.zeros(facts.shape, device=query.key.device)
        logits = query.relation.float() @ self.relations.float().T
        return torch.log_softmax(logits, dim=-1).gather(1, self.adjacency.relation[facts.clamp(min=0)])

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
        tails = self.adjacency.tail[beam[0].clamp(min=0)]
        facts, owner, valid = self.adjacency.by_head.expand(tails)
        after = second.gather(1, self.adjacency.relation[facts.clamp(min=0)])
        scores, entity, relation = (part.gather(1, owner) for part in beam[1:4])
        scores = (scores + weight * after).masked_fill(~valid, -torch.inf)
        found = Candidates.best(
            n,
            torch.cat([first.facts, facts], dim=1),
            torch.cat([first.scores + weight * stop, scores], dim=1),
            torch.cat([first.entity, entity], dim=1),
            torch.cat([first.relation + stop, relation + after], dim=1),
            torch.cat([first.via, beam[0].gather(1, owner)], dim=1),
        )
        # Two ways may lead to one fact: the better one counts.
        again = (found.facts[:, :, None] == found.facts[:, None, :]).tril(-1).any(dim=-1)
        kept = found.scores.masked_fill(again, -torch.inf)
        return Candidates.best(n, found.facts, kept, *found[2:])
