"""Facts as a user writes them, `Head | relation | Tail`, by label or key."""

import dataclasses
import unicodedata
from collections.abc import Sequence

from pipeline.config import UserError
from pipeline.memory.dates import Period
from pipeline.memory.facts import Fact, Receipt
from pipeline.memory.labels import SHOWN, Labels
from pipeline.memory.store import KnowledgeMemory

LONGEST = 300
"""Characters of a head, a relation or a tail at most; the language model reads no more of a fact."""

UNREADABLE = ("Cc", "Cs")
"""Categories of characters that no text holds: they steer terminals, or can't be written at all."""


def cleaned(name: str) -> str:
    """Return a name with single spaces.

    Raises:
        UserError: it is empty or too long, or holds what no text does.
    """
    name = " ".join(name.split())
    if not name:
        raise UserError("a name is empty; give head, relation and tail")
    if len(name) > LONGEST:
        raise UserError(
            f"{name[:40]!r}…: {len(name)} characters, but a name has at most {LONGEST}; shorten it"
        )
    if not name.isprintable() and any(unicodedata.category(char) in UNREADABLE for char in name):
        raise UserError(f"{name[:40]!a}: holds a control character or half a character; remove it")
    return name


def parse(statement: str) -> tuple[str, str, str]:
    """Return head, relation and tail of a statement.

    Raises:
        UserError: it is not of the form `Head | relation | Tail`, or a name is as `cleaned` doesn't take it.
    """
    parts = statement.split("|")
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise UserError(
            f'expected Head | relation | Tail, got {statement[:LONGEST]!r}; write "France | capital | Paris"'
        )
    head, relation, tail = map(cleaned, parts)
    return head, relation, tail


class Editor:
    """Changes a memory by statements.

    Args:
        memory: what is changed.
        relations: key of each relation by a label that the memory itself doesn't hold.
    """

    def __init__(self, memory: KnowledgeMemory, relations: dict[str, str] | None = None) -> None:
        self._memory = memory
        known = {label: key for label, key in (relations or {}).items() if key in memory.relations}
        self.entities: Labels = memory.labels("entity")
        self.relations: Labels = memory.labels("relation", known)

    def named(self, fact: Fact) -> Fact:
        """Return `fact` with the keys of its names; a part that comes with a label is a key already.

        Raises:
            UserError: a name is ambiguous.
        """
        head = fact.head if fact.head_label else self.entities.key(fact.head)
        relation = fact.relation if fact.relation_noun else self.relations.key(fact.relation)
        tail = fact.tail if fact.tail_label else self.entities.key(fact.tail)
        named = fact.head_label or fact.head, fact.relation_noun or fact.relation
        return dataclasses.replace(
            fact,
            head=head,
            relation=relation,
            tail=tail,
            head_label=named[0],
            relation_noun=named[1],
            tail_label=fact.tail_label or fact.tail,
        )

    def upsert(
        self, statements: Sequence[str], replace: bool, period: Period | None = None, on: str = ""
    ) -> tuple[list[int], list[int], list[str]]:
        """Write facts; return their ids, those of the facts that they superseded, and notes on what happened.

        Args:
            statements: the facts.
            replace: whether they supersede the other facts of their slots.
            period: when all of them hold, and who says so.
            on: date of the change; empty for today.

        Raises:
            UserError: a statement has another form or an ambiguous name, or a date can't be; nothing is
                written then.
        """
        dates = period or Period()
        parsed = map(parse, statements)
        return self.write(
            [Fact(*names, "", "", "", dates.start, dates.end, dates.source) for names in parsed], replace, on
        )

    def write(
        self, facts: Sequence[Fact], replace: bool, on: str = ""
    ) -> tuple[list[int], list[int], list[str]]:
        """Write facts whose parts are keys or labels; return what `upsert` does.

        Args:
            facts: see `named`.
            replace: whether they supersede the other facts of their slots.
            on: date of the change; empty for today.

        Raises:
            UserError: a name is ambiguous, or a date can't be; nothing is written then.
        """
        meant = list(map(self.named, facts))
        notes: dict[str, None] = {}
        for fact in meant:
            ends = (fact.head, fact.head_label), (fact.tail, fact.tail_label)
            notes |= {f"new entity {name!r}": None for key, name in ends if key not in self._memory.entities}
            if fact.relation not in self._memory.relations:
                alike = self.relations.alike(fact.relation_noun)
                close = f"; known ones like it: {', '.join(alike)}" if alike else ""
                notes[f"new relation {fact.relation_noun!r}{close}"] = None
        receipt = self._memory.upsert(meant, replace=replace, on=on)
        told = [*notes, *self.turned(receipt)]
        told += [f"not at all times: {self._memory.text(row)} {why}" for row, why in receipt.lost.items()]
        return receipt.facts, receipt.superseded, told

    def turned(self, receipt: Receipt) -> list[str]:
        """Return notes on the facts that began and ended by date."""
        turns = ("begun", receipt.begun), ("ended", receipt.ended)
        return [f"{what} by its date: {self._memory.text(row)}" for what, rows in turns for row in rows]

    def delete(self, statements: Sequence[str], on: str = "") -> list[str]:
        """Delete facts, for all dates; return their sentences.

        Args:
            statements: the facts.
            on: date of the change; empty for today.

        Raises:
            UserError: a statement has another form, or a fact is not in the memory; nothing is deleted then.
        """
        rows = [self._row(statement) for statement in statements]
        sentences = [self._memory.text(row) for row in rows]
        self._memory.delete([self._memory.key(row) for row in rows], on)
        return sentences

    def _row(self, statement: str) -> int:
        head, relation, tail = parse(statement)
        keys = self.entities.find(head), self.relations.find(relation), self.entities.find(tail)
        if keys[0] and keys[1] and keys[2]:
            row = self._memory.known((keys[0], keys[1], keys[2]))
            if row is not None:
                return row
        held: list[str] = []
        if keys[0]:
            rows = self._memory.facts_of(self._memory.entities.row(keys[0]))
            facts = [self._memory.fact(row) for row in rows]
            same = [fact for fact in facts if fact.relation == keys[1]]
            held = [f"{fact.relation_noun} | {fact.tail_label}" for fact in same or facts]
        what = f"{head} has {'; '.join(held[:SHOWN])}" if held else f"there is no fact of {head!r}"
        raise UserError(f"{statement!r} is not in the memory, so it can't be deleted; {what}")
