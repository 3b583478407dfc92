"""What a source of facts yields, before it is numbered: one module a source beside this file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity as its source names it."""

    label: str
    description: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Triple:
    """A fact by stable keys; `start` and `end` are ISO dates (or years), empty where unknown."""

    head: str
    relation: str
    tail: str
    start: str = ""
    end: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question that comes with a source, with the slots that answer it in hop order.

    `split` is the publisher's ("train", "valid", "test"); it decides the fold of the head entity, test
    before valid before train, so that no entity is on both sides.
    """

    text: str
    slots: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    split: str
    kind: str = "human"


@dataclass(frozen=True)
class Extract:
    """Entities, relations, one set of triples a snapshot (oldest first) and questions, by stable keys.

    `counts` is what the source itself met and left out or repaired: it goes into the stage's report.
    """

    entities: dict[str, Entity]
    relations: dict[str, str]
    snapshots: Sequence[tuple[str, Sequence[Triple]]]
    questions: Sequence[SourceQuestion] = ()
    counts: dict[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A frozen dataclass whose fields are the values of its file in conf/data."""

    def extract(self) -> Extract:
        """Return what the source holds.

        Raises:
            UserError: a file is missing, damaged, empty or lacks a column; the text names file, line, remedy.
        """
        ...
