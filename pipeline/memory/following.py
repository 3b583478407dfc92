"""A knowledge memory that follows what another process writes to its folder."""

import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.changes import Change
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.records import START
from pipeline.memory.replay import journaled
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


class FollowingMemory(KnowledgeMemory):
    """A memory that is open for reading alone; `open` makes it, `follow` brings it up to date.

    It may be searched meanwhile; a search sees each change whole or not at all.
    """

    _folder: Path
    _held: generations.Contents
    _manifest: "Kept"
    """The manifest, as of no later than what is held."""

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> Self:
        """Return the memory in `folder` as `KnowledgeMemory.open` does."""
        manifest = Kept(folder / generations.MANIFEST)
        memory = super().open(folder, settings, encoder)
        memory._folder, memory._manifest = folder, manifest
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
        while True:
            manifest = self._manifest
            try:
                return self._followed()
            except UserError:
                if self._manifest is manifest and not manifest.replaced():  # else it was merged meanwhile
                    raise

    def _followed(self) -> int:
        if self._manifest.replaced():
            manifest = Kept(self._manifest.file)
            if generations.current(self._folder) != self._held.generation:
                held = generations.read(self._folder, self.encoder, self.settings.layout)
                with self._state:
                    self._take(held)
                self._manifest = manifest
                return 1
            self._manifest = manifest
        generation, before = self._held.generation, self._held.last
        if generation is None:
            return 0
        journal = generation.journal(self._folder)
        with suppress(OSError):  # which the reading of it tells of
            if journal.stat().st_size == (before.end if before else START.size):
                return 0
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


class Kept:
    """A file as it is now, kept open so that no later one can be taken for it.

    Args:
        file: that is replaced as a whole where it changes, and need not be there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            self._own: tuple[int, int] | None = None
            return
        weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        self._own = found.st_dev, found.st_ino

    def replaced(self) -> bool:
        """Return whether another file has its name, or none."""
        try:
            found = self.file.stat()
        except OSError:
            return self._own is not None
        return (found.st_dev, found.st_ino) != self._own
