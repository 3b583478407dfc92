"""What goes into a memory and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.memory.dates import Period
from pipeline.shapes import CandidateFacts, CandidateScores, Vectors

Key = tuple[str, str, str]
"""The stable key of a fact: the stable keys of its head, relation and tail."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact by stable keys, with the names that new entities and relations get."""

    head: str
    relation: str
    tail: str
    head_label: str = ""
    relation_noun: str = ""
    tail_label: str = ""
    start: str = ""
    """First date that it holds on: a year, a month or a day by ISO 8601; empty where it is unknown."""
    end: str = ""
    """Date from which on it holds no longer; empty where it is unknown."""
    source: str = ""
    """Who says so; empty where that is unknown."""

    @property
    def key(self) -> Key:
        """The stable key of the fact."""
        return self.head, self.relation, self.tail

    @property
    def dated(self) -> bool:
        """Whether it comes with a date or a source."""
        return bool(self.start or self.end or self.source)

    def period(self, on: str) -> Period:
        """Return the period that it holds for, as written on a date.

        Raises:
            UserError: a bound is no date, or the end is not after the start.
        """
        try:
            return Period(self.start, self.end, self.source, on).checked()
        except ValueError as error:
            raise UserError(f"fact {str(self)!r}: {error}") from error

    def __str__(self) -> str:
        return " | ".join(self.key)


class Query(NamedTuple):
    """What a question asks the memory for; the heads of `pipeline.model.heads` write it."""

    key: Vectors
    """Inner product with an entity's vector (a slot's, in the slot layout): how well it fits, in nats."""
    relation: Vectors
    """Inner product with a relation's vector: its logit among the relations."""
    second: Vectors | None = None
    """The same of a relation that is asked of the answer to the first; None asks for one hop."""
    stop: Float[Tensor, "B 1"] | None = None
    """Logit of no second relation."""

    def rows(self, start: int, end: int) -> "Query":
        """Return what the questions from `start` to `end` ask for."""
        key, relation, second, stop = (None if part is None else part[start:end] for part in self)
        assert key is not None
        assert relation is not None
        return Query(key, relation, second, stop)

    @classmethod
    def joined(cls, parts: Sequence["Query"]) -> "Query":
        """Return what the questions of all `parts` ask for, one after the other."""
        second = [part.second for part in parts if part.second is not None]
        stop = [part.stop for part in parts if part.stop is not None]
        first = torch.cat([part.key for part in parts]), torch.cat([part.relation for part in parts])
        return cls(*first, torch.cat(second) if second else None, torch.cat(stop) if stop else None)


class Candidates(NamedTuple):
    """Facts that may answer, best first."""

    facts: CandidateFacts
    scores: CandidateScores
    entity: CandidateScores
    """The part of the score that the entity (or the slot) gives; 0 where there is no fact."""
    relation: CandidateScores
    """The log-probability of the relation, of both for two hops; 0 where there is no fact, and for the
    first one in the slot layout."""
    via: CandidateFacts
    """The fact whose tail heads this one, where the question asks for two hops; -1 where it doesn't."""

    @property
    def asked(self) -> CandidateFacts:
        """The facts whose heads the questions name: those of the first hop."""
        return torch.where(self.via < 0, self.facts, self.via)

    @classmethod
    def best(
        cls,
        n: int,
        facts: CandidateFacts,
        scores: CandidateScores,
        entity: CandidateScores,
        relation: CandidateScores,
        via: CandidateFacts,
    ) -> "Candidates":
        """Return the n with the best scores, best first; where fewer have any, the rest is filled up."""
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        order = order[:, :n]
        missing = n - order.shape[1]
        scores = F.pad(scores[:, :n], (0, missing), value=-torch.inf)
        none = scores == -torch.inf
        kept = (F.pad(part.gather(1, order), (0, missing)) for part in (facts, entity, relation, via))
        facts, entity, relation, via = kept
        return cls(
            facts.masked_fill(none, -1),
            scores,
            entity.masked_fill(none, 0.0),
            relation.masked_fill(none, 0.0),
            via.masked_fill(none, -1),
        )

    @classmethod
    def none(cls, questions: int, n: int, device: torch.device) -> "Candidates":
        """Return n places without a fact for each question."""
        facts = torch.full((questions, n), -1, device=device)
        zeros = torch.zeros(facts.shape, device=device)
        return cls(facts, zeros - torch.inf, zeros, zeros, facts)


@dataclass(frozen=True)
class Receipt:
    """What a change did."""

    facts: list[int]
    """Ids of the facts that were written or deleted."""
    entities: int = 0
    """New entities."""
    relations: int = 0
    """New relations."""
    superseded: list[int] = field(default_factory=list)
    """Ids of the facts of the same slots that gave way to a replacing upsert, for good or for a time."""
    lost: dict[int, str] = field(default_factory=dict)
    """Of facts that were written but don't hold for all of the time that they were written for, by id: what
    stands against them, and why."""
    begun: list[int] = field(default_factory=list)
    """Ids of facts that hold from now on because their date has come."""
    ended: list[int] = field(default_factory=list)
    """Ids of facts that hold no longer because their date has come."""


class Found(NamedTuple):
    """The best facts of given heads."""

    candidates: Candidates
    """`via` is -1."""
    places: Int[Tensor, "B N"]
    """Which of the given heads each fact is of; 0 where there is no fact."""
    left_out: Int[Tensor, " B"]
    """Facts of hubs that hold and were not scored, each below n others of its head."""

    @classmethod
    def none(cls, questions: int, n: int, device: torch.device) -> "Found":
        """Return n places without a fact for each question."""
        empty = Candidates.none(questions, n, device)
        return cls(
            empty, torch.zeros_like(empty.facts), torch.zeros(questions, dtype=torch.long, device=device)
        )
