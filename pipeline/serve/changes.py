"""Facts as a user writes them, `Head | relation | Tail`, and what a change to the memory did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import UserError
from pipeline.memory.facts import Fact
from pipeline.memory.store import KnowledgeMemory
from pipeline.serve.labels import SHOWN, Labels

LONGEST = 300
"""Characters of a head, a relation or a tail at most; the language model reads no more of a fact."""


@dataclass(frozen=True)
class Change:
    """What one call of `upsert` or `delete` did, as the sentences that the language model reads."""

    written: list[str]
    deleted: list[str]
    superseded: list[str]
    """Former facts of the slots that were written."""
    notes: list[str]
    """What was new to the memory."""
    seconds: float


def parse(statement: str) -> tuple[str, str, str]:
    """Return head, relation and tail of a statement.

    Raises:
        UserError: it is not of the form `Head | relation | Tail`.
    """
    parts = [" ".join(part.split()) for part in statement.split("|")]
    if len(parts) != 3 or not all(parts):
        raise UserError(
            f'expected Head | relation | Tail, got {statement!r}; write "France | capital | Paris"'
        )
    for part in parts:
        if len(part) > LONGEST:
            raise UserError(
                f"{part[:40]!r}…: {len(part)} characters, but a name has at most {LONGEST}; shorten it"
            )
    head, relation, tail = parts
    return head, relation, tail


def relation_labels(tables: Path) -> dict[str, str]:
    """Return the key of each relation's label, from the table `relations`; nothing where it isn't there."""
    file = tables / "relations.parquet"
    if not file.is_file():
        return {}
    try:
        table = pq.read_table(file, columns=["label", "key"])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: damaged ({error}); delete it and run `dvc repro`") from error
    return dict(zip(table["label"].to_pylist(), table["key"].to_pylist(), strict=True))


class Editor:
    """Changes a memory by statements.

    Args:
        memory: what is changed.
        relations: key of each relation by a label that the memory itself doesn't hold.
    """

    def __init__(self, memory: KnowledgeMemory, relations: dict[str, str] | None = None) -> None:
        self._memory = memory
        known = {label: key for label, key in (relations or {}).items() if key in memory.relations}
        self.entities = Labels(memory.entities, "entity")
        self.relations = Labels(memory.relations, "relation", known)

    def upsert(self, statements: Sequence[str], replace: bool) -> tuple[list[int], list[int], list[str]]:
        """Write facts; return their ids, those of the facts that they superseded, and notes on what is new.

        Raises:
            UserError: a statement has another form or an ambiguous name; nothing is written then.
        """
        facts: list[Fact] = []
        notes: dict[str, None] = {}
        for head, relation, tail in map(parse, statements):
            ends = [(self.entities.key(name), name) for name in (head, tail)]
            named = self.relations.key(relation)
            facts.append(Fact(ends[0][0], named, ends[1][0], head, relation, tail))
            notes |= {f"new entity {name!r}": None for key, name in ends if key not in self._memory.entities}
            if named not in self._memory.relations:
                alike = self.relations.alike(relation)
                close = f"; known ones like it: {', '.join(alike)}" if alike else ""
                notes[f"new relation {relation!r}{close}"] = None
        receipt = self._memory.upsert(facts, replace=replace)
        return receipt.facts, receipt.superseded, list(notes)

    def delete(self, statements: Sequence[str]) -> list[str]:
        """Delete facts; return their sentences.

        Raises:
            UserError: a statement has another form, or a fact is not in the memory; nothing is deleted then.
        """
        rows = [self._row(statement) for statement in statements]
        sentences = [self._memory.text(row) for row in rows]
        self._memory.delete([self._memory.fact(row).key for row in rows])
        return sentences

    def _row(self, statement: str) -> int:
        head, relation, tail = parse(statement)
        keys = self.entities.find(head), self.relations.find(relation), self.entities.find(tail)
        if keys[0] and keys[1] and keys[2]:
            row = self._memory.find(keys[0], keys[1], keys[2])
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
