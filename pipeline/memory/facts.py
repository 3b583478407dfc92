"""What goes into a memory and what comes out of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional as F

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

    @property
    def key(self) -> Key:
        """The stable key of the fact."""
        return self.head, self.relation, self.tail

    def __str__(self) -> str:
        return " | ".join(self.key)


class Query(NamedTuple):
    """What a question asks the memory for; the heads of `pipeline.model.heads` write it."""

    key: Vectors
    """Inner product with an entity's vector (a slot's, in the slot layout): how well it fits, in nats."""
    relation: Vectors
    """Inner product with a relation's vector: its logit among the relations."""


class Candidates(NamedTuple):
    """Facts that may answer, best first."""

    facts: CandidateFacts
    scores: CandidateScores
    entity: CandidateScores
    """The part of the score that the entity (or the slot) gives; 0 where there is no fact."""
    relation: CandidateScores
    """The log-probability of the relation; 0 in the slot layout and where there is no fact."""

    @classmethod
    def best(
        cls,
        n: int,
        facts: CandidateFacts,
        scores: CandidateScores,
        entity: CandidateScores,
        relation: CandidateScores,
    ) -> "Candidates":
        """Return the n with the best scores, best first; where fewer have any, the rest is filled up."""
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        order = order[:, :n]
        missing = n - order.shape[1]
        scores = F.pad(scores[:, :n], (0, missing), value=-torch.inf)
        none = scores == -torch.inf
        kept = (F.pad(part.gather(1, order), (0, missing)) for part in (facts, entity, relation))
        facts, entity, relation = kept
        return cls(
            facts.masked_fill(none, -1),
            scores,
            entity.masked_fill(none, 0.0),
            relation.masked_fill(none, 0.0),
        )


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
    """Ids of the facts of the same slots that a replacing upsert removed."""
