"""A durable memory that keeps what it writes to its journal, for the other copies of its shard."""

from pathlib import Path
from typing import Self

from pipeline.memory.changes import Change, encoded
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.settings import Memory


class Shipping(DurableMemory):
    """A memory whose records are sent on, and that carries out those of another one."""

    shipped: list[bytes]
    """Contents of the records that were written since this was emptied."""

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> Self:
        """Return the memory as `KnowledgeMemory.open` does."""
        memory = super().open(folder, settings, encoder)
        memory.shipped = []
        return memory

    def _commit(self, change: Change) -> tuple[list[int], list[int]]:
        payload = encoded(change)
        rows = super()._commit(change)
        self.shipped.append(payload)
        return rows

    def take(self, change: Change) -> None:
        """Carry out a change as another copy wrote it; it is on disk once the journal is settled."""
        super()._commit(change)
