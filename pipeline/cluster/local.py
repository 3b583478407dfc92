"""Copies of shards in this process, and the folders of a memory in shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster.answering import Copy
from pipeline.cluster.messages import GoneError, shard_of
from pipeline.cluster.replica import HELD
from pipeline.config import UserError
from pipeline.memory.changes import Change
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.names import Names, New
from pipeline.memory.planning import slot_key
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


def folder_of(root: Path, shard: int, copy: int) -> Path:
    """Return the folder of a copy of a shard."""
    return root / f"shard-{shard:04d}" / f"copy-{copy}"


class Answer:
    """What was asked of a copy in this process, and is answered already."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """Return the answer, or raise the error that it was."""
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Direct:
    """A copy in this process, which can be ended and started anew.

    Args:
        folder: of the copy.
        settings: layout and sizes of the search.
        encoder: whose vectors it holds.
        sync: when a change is on disk.
    """

    def __init__(self, folder: Path, settings: Memory, encoder: TextEncoder, sync: str) -> None:
        self._given = folder, settings, encoder.name, encoder.dimension, sync
        self.copy: Copy | None = None
        self.start()

    def start(self) -> None:
        """Start it, from its folder."""
        self.copy = Copy(*self._given)

    def begin(self, what: str, *given: Any) -> Answer:
        """Ask it for something."""
        if self.copy is None:
            return Answer(GoneError("it was ended"))
        try:
            return Answer(getattr(self.copy, what)(*given))
        except Exception as error:
            return Answer(error)

    def end(self) -> None:
        """End it."""
        if self.copy is not None:
            self.copy.close()
            self.copy = None


def split(memory: KnowledgeMemory, shards: int) -> list[KnowledgeMemory]:
    """Return the facts of a memory by shards, each with the names that they need and every relation.

    Args:
        memory: in main memory; its facts keep their order.
        shards: how many.
    """
    alive, dated = memory.alive, set(memory.chronicle.rows)
    rows: list[list[int]] = [[] for _ in range(shards)]
    for row in range(len(alive)):
        if alive[row] or row in dated:
            rows[shard_of(memory.key(row)[0], shards)].append(row)
    return [_part(memory, own) for own in rows]


def _part(memory: KnowledgeMemory, rows: Sequence[int]) -> KnowledgeMemory:
    """Return a memory of some facts, which hold or have periods, in their order."""
    part = KnowledgeMemory(memory.settings, memory.encoder)
    facts = [memory.key(row) for row in rows]
    ends = {key for fact in facts for key in (fact[0], fact[2])}
    new = {
        "entities": _taken(memory.entities, sorted(memory.entities.many(list(ends)))),
        "relations": _taken(memory.relations, range(len(memory.relations))),
    }
    part._commit(Change(facts, [], new))
    gone = [key for row, key in zip(rows, facts, strict=True) if not memory.holds(row)]
    periods = {key: memory.chronicle.of(row) for row, key in zip(rows, facts, strict=True)}
    periods = {key: its for key, its in periods.items() if its}
    if periods:
        part._commit(Change([], gone, {}, periods, memory.chronicle.on))
    if memory.settings.layout == "slot":
        _take_slots(memory, part)
    return part


def _taken(names: Names, rows: Sequence[int]) -> New:
    if not len(rows):
        return New([], [], torch.empty(0, 0, dtype=torch.float16))
    vectors = names.gather(torch.tensor(list(rows))).half().cpu()
    return New([names.keys[row] for row in rows], [names.texts[row] for row in rows], vectors)


def _take_slots(memory: KnowledgeMemory, part: KnowledgeMemory) -> None:
    """Give the slots of `part` the vectors that they have in `memory`, by the rows of `part`."""
    pairs = dict.fromkeys((head, relation) for head, relation, _ in part.triples.tolist())
    keys = [(part.entities.keys[head], part.relations.keys[relation]) for head, relation in pairs]
    rows = [memory.slots.row(slot_key(memory.entities.row(h), memory.relations.row(r))) for h, r in keys]
    taken = _taken(memory.slots, rows)
    if rows:
        part.slots.restore([slot_key(*pair) for pair in pairs], taken.texts, taken.vectors)


def fill(memory: KnowledgeMemory, root: Path, shards: int, replication: int) -> list[int]:
    """Write a memory to the folders of its copies; return how many facts each shard holds.

    Args:
        memory: in main memory.
        root: where the folders are to be; no copy may be there yet.
        shards: how many.
        replication: copies of each.

    Raises:
        UserError: a folder is there, or there is no room.
    """
    sizes = []
    for shard, part in enumerate(split(memory, shards)):
        for copy in range(replication):
            folder = folder_of(root, shard, copy)
            if folder.exists():
                raise UserError(f"{folder}: is there already; name another folder, or remove it")
            DurableMemory.begun(folder / HELD, memory.settings, memory.encoder, start=part).close()
        sizes.append(len(part))
    return sizes
