"""The search over facts by their heads, wherever these are: in one memory, or in several.

A fact (h, r, t) scores q_e·e_h + w · log softmax_r(q_r·R) in the factored layout and q_k·b in the slot
layout, with the slot's vector b; facts of one slot score alike. A query for two hops adds
w · log p₂: of no second relation where a fact answers by itself, of r' where a fact (t, r', u) answers
that the first one leads to.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.facts import Candidates, Found, Query
from pipeline.memory.settings import Memory
from pipeline.shapes import CandidateFacts


class Searching(ABC):
    """Searches facts that a subclass finds by their heads.

    What needs all facts at once is here: the softmax over every relation, the nearest heads of all, and the
    facts that two hops go on from. What a head's facts decide by themselves is the subclass's.
    """

    settings: Memory
    relations: Float[Tensor, "R P"]
    """Vectors of all relations."""

    @abstractmethod
    def heads(self, query: Query) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the entities whose facts are looked at, nearest first, and how near each is."""

    @abstractmethod
    def found(
        self, heads: Int[Tensor, "B n"], near: Float[Tensor, "B n"], shares: Float[Tensor, "B R"], n: int
    ) -> Found:
        """Return the n best facts of `heads`, by how near these are and the relations' log-probabilities."""

    @abstractmethod
    def best_of_slots(self, query: Query, n: int) -> Candidates:
        """Return the n facts of the slots that fit best, in the slot layout."""

    @abstractmethod
    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the heads, relations and tails of `facts`."""

    @abstractmethod
    def entity_vectors(self, heads: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of entities."""

    @abstractmethod
    def slot_vectors(self, facts: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of the slots of `facts`, in the slot layout."""

    def search(self, query: Query, n: int) -> Candidates:
        """Return the n best facts, best first."""
        if self.settings.layout == "slot":
            first = self.best_of_slots(query, n)
        else:
            near, heads = self.heads(query)
            logits = query.relation.float() @ self.relations.float().T
            first = self.found(heads, near, torch.log_softmax(logits, dim=-1), n).candidates
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
        heads, relations, _ = self.columns(rows)
        if self.settings.layout == "factored":
            keys = self.entity_vectors(heads)
            logits = query.relation.float() @ self.relations.float().T
            relation = torch.log_softmax(logits, dim=-1).gather(1, relations)
        else:
            keys = self.slot_vectors(rows)
            relation = torch.zeros(facts.shape, device=query.key.device)
        entity = torch.einsum("bp,bnp->bn", query.key, keys.float())
        if query.second is not None:
            later = self.columns(facts.clamp(min=0))[1].masked_fill(via < 0, len(self.relations))
            relation = relation + self._second(query).gather(1, later)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(none, -torch.inf)
        return Candidates(facts, scores, entity.masked_fill(none, 0.0), relation.masked_fill(none, 0.0), via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        heads, relations, _ = self.columns(facts.clamp(min=0))
        keys = self.entity_vectors(heads).float() + self.relations[relations].float()
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
        tails = self.columns(beam[0].clamp(min=0))[2]
        (facts, scores, _, after, _), places, _ = self.found(tails, beam[1], second[:, :-1], n)
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
