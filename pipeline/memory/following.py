"""A knowledge memory that follows what another process writes to its folder."""

import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Self

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.changes import Change
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.records import START, located
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
    _opening: "Opening | None" = None
    """What opens the snapshot of a merge."""

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

        Once the writer has merged, the new snapshot is opened beside: until that is done, what is held goes
        on with the changes. Ids change when it is taken over, and 1 is returned at least.

        Raises:
            UserError: a file is missing or damaged; what is held stays as it is. Of a snapshot this is said
                once, and what is held goes on.
        """
        while True:
            manifest = self._manifest
            try:
                return self._followed()
            except UserError:
                if self._manifest is manifest and not manifest.replaced():  # else it was merged meanwhile
                    raise

    def _followed(self) -> int:
        taken = 0
        if self._manifest.replaced():
            manifest = Kept(self._manifest.file)
            generation = generations.current(self._folder)
            if generation != self._held.generation:
                taken = self._go_on(generation)
            self._manifest = manifest
        elif self._opening is not None and not self._opening.is_alive():
            opening, self._opening = self._opening, None
            taken = self._go_over(opening)
        return max(taken, self._follow_journal())

    def _follow_journal(self) -> int:
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

    def _go_on(self, generation: generations.Generation | None) -> int:
        """Follow the journal of another generation, and open its snapshot, beside where that can be.

        Returns:
            1 where the snapshot is open, 0 else.
        """
        held = self._held
        if generation is not None and held.generation is not None and self.settings.layout == "factored":
            known = held.last.number if held.last else held.generation.first - 1
            journal = generation.journal(self._folder)
            last = located(journal, known) if known >= generation.first else None
            if last is not None or known == generation.first - 1:
                self._held = held._replace(generation=generation, last=last)
                self._opening = Opening(self._folder, self.settings, self.encoder)
                return 0
        fresh = generations.read(self._folder, self.encoder, self.settings.layout)
        with self._state:
            self._take(fresh)
        return 1

    def _go_over(self, opening: "Opening") -> int:
        """Take over the snapshot that was opened, if it still counts; return whether it does."""
        fresh = opening.memory
        if opening.error is not None:
            raise opening.error
        if fresh is None or fresh._held.generation != self._held.generation:
            return 0
        fresh.arrangement.lock_by(self._state)
        with self._state:
            self.entities, self.relations, self.slots = fresh.entities, fresh.relations, fresh.slots
            self._facts, self.chronicle, self.arrangement = fresh._facts, fresh.chronicle, fresh.arrangement
            self._past, self._held = {}, fresh._held
        return 1

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


class Opening(Thread):
    """Opens the memory in a folder beside everything else.

    Args:
        folder: of the memory.
        settings: layout and sizes of the search.
        encoder: turns the names of new things into vectors.
    """

    def __init__(self, folder: Path, settings: Memory, encoder: TextEncoder) -> None:
        super().__init__(name="open", daemon=True)
        self._folder = folder
        self.memory: FollowingMemory | None = None
        """What was opened, None where that failed, as it does where it is merged again meanwhile."""
        self.error: UserError | None = None
        self._fresh = FollowingMemory(settings, encoder)
        self.start()

    def run(self) -> None:
        """Open it."""
        fresh = self._fresh
        try:
            fresh._take(generations.read(self._folder, fresh.encoder, fresh.settings.layout))
            fresh.arrangement.prepare()
            self.memory = fresh
        except UserError as error:
            self.error = error


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
