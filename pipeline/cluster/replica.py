"""One copy of one shard: a durable memory of the facts of some heads, in one process.

It knows no encoder. Whoever writes sends along the vectors of new names, so that these are the same in every
copy, and the other copies carry out what the first one has written to its journal, byte by byte.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import RLock

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cluster.membership import FILE, Membership
from pipeline.cluster.messages import (
    Done,
    FencedError,
    GoneError,
    Lacking,
    Order,
    Outcome,
    Slot,
    Standing,
    Told,
    Vectors,
)
from pipeline.cluster.shipping import Shipping
from pipeline.config import UserError
from pipeline.memory.changes import decoded
from pipeline.memory.disk import remove
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Receipt
from pipeline.memory.planning import slot_key
from pipeline.memory.records import records
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory

FENCED = "another process has opened the memory for writing since; end this one, or open it again"
HELD, COMING = "memory", "coming"
"""Folders of the memory, and of one that is being copied from another copy."""


class Sent(TextEncoder):
    """Gives the vectors that were sent along with a change.

    Args:
        name: of the encoder that they are from.
        dimension: their length.
    """

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.device = torch.device("cpu")
        self.vectors: Vectors = {}
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Length P of a base vector."""
        return self._dimension

    def named(self, texts: Mapping[str, str], progress: Progress | None = None) -> Float[Tensor, "n P"]:
        """Return the vectors that were sent along; those of slots go by their texts alone.

        Raises:
            UserError: one of them wasn't sent along.
        """
        vectors, found = self.vectors, []
        for key, text in texts.items():
            vector = vectors[key, text] if (key, text) in vectors else vectors.get(("", text))
            if vector is None:
                raise UserError(f"a shard of the memory was sent no vector of {text!r}; write the fact again")
            found.append(vector)
        return torch.stack(found)


class Replica:
    """A copy of a shard, open for writing; `pipeline.cluster.answering` is what it is asked.

    Args:
        folder: its own; made where it isn't there.
        settings: layout and sizes of the search.
        encoder: name of the encoder that vectors are from.
        dimension: their length.
        sync: when a change is on disk, see `pipeline.memory.journal.Journal`.

    Raises:
        UserError: another process has it open, or it is damaged.
    """

    def __init__(self, folder: Path, settings: Memory, encoder: str, dimension: int, sync: str) -> None:
        self._folder = folder
        self._settings = settings
        self._encoder = Sent(encoder, dimension)
        self._sync = sync
        self._writing = RLock()
        self._ready = False
        self._memory: Shipping | None = None
        remove(folder / COMING)
        self._open()

    def _open(self) -> None:
        self._memory = Shipping.begun(self._folder / HELD, self._settings, self._encoder, self._sync)
        self._membership = Membership.read(self._folder)

    @property
    def held(self) -> Shipping:
        """The memory.

        Raises:
            GoneError: it is being copied from another copy.
        """
        if self._memory is None:
            raise GoneError("it is being copied")
        return self._memory

    def memory(self, on: str = "") -> KnowledgeMemory:
        """Return the memory, or what held on a date, once this copy counts.

        Raises:
            GoneError: it doesn't count, or not yet.
        """
        if not self._ready:
            raise GoneError("it has yet to catch up")
        return self.held.as_of(on) if on else self.held

    def close(self) -> None:
        """End the writing."""
        self._ready = False
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def standing(self) -> Standing:
        """Return where it stands."""
        memory, (term, members) = self.held, self._membership
        counts = memory.version, len(memory), memory.chronicle.on, len(memory.relations)
        return Standing(term, members, *counts, self._ready)

    def admit(self, term: int, members: tuple[int, ...]) -> None:
        """Take part in a term; changes of an earlier one are refused from then on.

        Raises:
            FencedError: a later one has begun.
        """
        with self._writing:
            if term <= self._membership.term:
                raise FencedError(FENCED)
            fresh = Membership(term, members)
            fresh.write(self._folder)
            self._membership, self._ready = fresh, True

    def _check(self, term: int) -> None:
        if not self._ready:
            raise GoneError("it has yet to catch up")
        if term != self._membership.term:
            raise FencedError(FENCED)

    def lacking(self, entities: Sequence[str], relations: Sequence[str], slots: Sequence[Slot]) -> Lacking:
        """Return what isn't known here."""
        memory = self.memory()
        new = [slot for slot in slots if (key := self._slot(slot)) is None or key not in memory.slots]
        return Lacking(
            [key for key in entities if key not in memory.entities],
            [key for key in relations if key not in memory.relations],
            new,
        )

    def _slot(self, slot: Slot) -> str | None:
        rows = self.held.entities.find(slot[0]), self.held.relations.find(slot[1])
        return None if rows[0] is None or rows[1] is None else slot_key(rows[0], rows[1])

    def change(self, term: int, order: Order) -> Done:
        """Carry out a change and return what it did, once it is in the journal here.

        Raises:
            UserError: it is refused, and nothing is changed.
        """
        with self._writing:
            self._check(term)
            memory = self.held
            number = memory.version
            memory.shipped.clear()
            self._encoder.vectors = order.vectors
            if order.kind == "upsert":
                receipt = memory.upsert(order.facts, order.replace, on=order.on)
            elif order.kind == "delete":
                receipt = memory.delete(order.removed, order.on)
            else:
                receipt = memory.advance(order.on)
            self._encoder.vectors = {}
            return Done(self._told(receipt), number, list(memory.shipped), self.standing())

    def _told(self, receipt: Receipt) -> Outcome:
        memory = self.held

        lost = zip(told(memory, list(receipt.lost)), receipt.lost.values(), strict=True)
        parts = receipt.facts, receipt.superseded, receipt.begun, receipt.ended
        facts, superseded, begun, ended = (told(memory, rows) for rows in parts)
        return Outcome(facts, superseded, list(lost), begun, ended)

    def follow(self, term: int, number: int, payloads: Sequence[bytes]) -> Standing:
        """Carry out what another copy wrote to its journal; those records that are here already are passed.

        Args:
            term: in which it was written, or 0 before this copy counts.
            number: of the first record.
            payloads: contents of the records.

        Raises:
            GoneError: records before these are missing here.
        """
        with self._writing:
            if term:
                self._check(term)
            memory = self.held
            if memory.version < number:
                raise GoneError(f"it is at record {memory.version}, not {number}")
            with memory.alone():
                for payload in payloads[memory.version - number :]:
                    memory.take(decoded(payload))
            memory.journal.settle()
            return self.standing()

    def last(self) -> tuple[int, bytes] | None:
        """Return number and content of the last record of the journal, None where a merge has emptied it."""
        found = None
        for record in records(self.held.journal.file):
            found = record.number, record.payload
        return found

    def since(self, number: int) -> list[tuple[int, bytes]] | None:
        """Return the records from `number` on, None where a merge has taken them."""
        memory = self.held
        kept = [(record.number, record.payload) for record in records(memory.journal.file)]
        if number < (kept[0][0] if kept else memory.version):
            return None
        return [(found, payload) for found, payload in kept if found >= number]

    def files(self) -> dict[str, int]:
        """Fold the journal into the snapshot; return the files of the folder with their sizes."""
        self.held.merge()
        folder = self._folder / HELD
        own = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "lock"]
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in own}

    def piece(self, name: str, start: int, size: int) -> bytes:
        """Return a piece of one of `files`."""
        with (self._folder / HELD / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def empty(self) -> None:
        """Forget everything, to be filled by `put`."""
        self.close()
        (self._folder / FILE).unlink(missing_ok=True)  # before anything else: it counts no more
        self._membership = Membership()
        remove(self._folder / COMING)

    def put(self, name: str, piece: bytes) -> None:
        """Append to a file of what is coming."""
        file = self._folder / COMING / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            stream.write(piece)

    def filled(self) -> Standing:
        """Stand on what came."""
        remove(self._folder / HELD)
        (self._folder / COMING).rename(self._folder / HELD)
        self._open()
        return self.standing()


def told(memory: KnowledgeMemory, rows: Sequence[int]) -> list[Told]:
    """Return facts of a memory as other processes are told of them."""
    return [Told(key, memory.named(key)) for key in map(memory.key, rows)]
