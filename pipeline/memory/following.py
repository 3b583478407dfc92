"""A knowledge memory that follows what another process writes to its folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.changes import Change
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.replay import journaled
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


class FollowingMemory(KnowledgeMemory):
    """A memory that is open for reading alone; `open` makes it, `follow` brings it up to date.

    It may be searched meanwhile; a search sees each change whole or not at all.
    """

    _folder: Path
    _held: generations.Contents

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> Self:
        """Return the memory in `folder` as `KnowledgeMemory.open` does."""
        memory = super().open(folder, settings, encoder)
        memory._folder = folder
        return memory

    def _take(self, held: generations.Contents) -> None:
        super()._take(held)
        self._held = held._replace(since=Change())  # which may be large

    def follow(self) -> int:
        """Take in what was written to the folder since; return how many changes there were.

        Once the writer has merged, the folder is opened anew: ids change then, and 1 is returned.

        Raises:
            UserError: a file is missing or damaged; what is held stays as it is.
        """
        generation = generations.current(self._folder)
        if generation is None:
            return 0
        if generation != self._held.generation:
            held = generations.read(self._folder, self.encoder, self.settings.layout)
            with self._state:
                self._take(held)
            return 1
        before = self._held.last
        journal = generation.journal(self._folder)
        since, last = journaled(journal, generation.first, self._names, before)
        if last is None or last == before:
            return 0
        KnowledgeMemory._commit(self, since)
        self._held = self._held._replace(last=last)
        return last.number - (before.number if before else generation.first - 1)

    def upsert(
        self,
        facts: Sequence[Fact],
        replace: bool = False,
        progress: Progress | None = None,
        on: str = "",
    ) -> Receipt:
        """Refuse to.

        Raises:
            UserError: always; the text says who may write.
        """
        raise UserError(f"{self._folder}: open for reading; open it by `DurableMemory.begun` to write")

    def delete(self, facts: Iterable[Key], on: str = "") -> Receipt:
        """Refuse to.

        Raises:
            UserError: always.
        """
        return self.upsert([])

    def advance(self, on: str = "") -> Receipt:
        """Refuse to.

        Raises:
            UserError: always.
        """
        return self.upsert([])
