"""Question sets: questions about slots of a graph, and what a set brings of its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.kg.sources import Entity, SourceQuestion, Triple

Slot = tuple[str, str]


@dataclass(frozen=True)
class Known:
    """The facts that questions are about: the tails of each slot, in the order of the triples."""

    entities: Mapping[str, Entity]
    relations: Mapping[str, str]
    tails: Mapping[Slot, list[str]]

    @classmethod
    def of(
        cls, entities: Mapping[str, Entity], relations: Mapping[str, str], triples: Iterable[Triple]
    ) -> "Known":
        """Return `triples` by slot."""
        tails: defaultdict[Slot, list[str]] = defaultdict(list)
        for triple in triples:
            tails[triple.head, triple.relation].append(triple.tail)
        return cls(entities, relations, dict(tails))

    def answers(self, slot: Slot) -> tuple[str, ...]:
        """Return the distinct labels of the tails of `slot`, all of which are right."""
        return tuple(dict.fromkeys(self.entities[tail].label for tail in self.tails[slot]))


@dataclass(frozen=True)
class Asked:
    """Questions of a set that a graph can answer, the facts that the set adds for them, and what was met."""

    questions: list[SourceQuestion]
    counts: dict[str, int]
    triples: list[Triple] = field(default_factory=list)
    relations: dict[str, str] = field(default_factory=dict)


class QuestionSet(Protocol):
    """A set whose questions can be asked of another source's facts."""

    def ask(self, known: Known) -> Asked:
        """Return the questions whose slot `known` holds; the others are counted.

        Raises:
            UserError: a file is missing, damaged, empty or lacks a column.
        """
        ...
