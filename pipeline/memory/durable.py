"""A knowledge memory whose changes are in its folder, whole, before they are acknowledged."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Int

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.changes import Change, encoded
from pipeline.memory.disk import remove
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.journal import Journal
from pipeline.memory.lock import FolderLock
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


class DurableMemory(KnowledgeMemory):
    """A memory that is open for writing; `begun` makes it.

    A change is checked, then written to the journal, then carried out, so that one which is refused leaves
    folder and memory as they were. Changes of several threads follow each other; searches don't wait for the
    disk and see each change whole or not at all. With the policy `group` a search may see a change shortly
    before it is acknowledged. `close` it, or use it as a context manager.
    """

    folder: Path
    _journal: Journal
    _lock: FolderLock
    _generation: generations.Generation
    _sync: str

    @classmethod
    def begun(
        cls,
        folder: Path,
        settings: Memory,
        encoder: TextEncoder,
        sync: str = "always",
        start: KnowledgeMemory | None = None,
    ) -> Self:
        """Return the memory in `folder`, open for writing.

        Args:
            folder: of such a memory; made where it isn't there.
            settings: layout and sizes of the search.
            encoder: turns the names of new entities, relations and slots into vectors.
            sync: when a change is on disk, see `Journal`.
            start: what a new folder begins with; nothing by default. One that is there already ignores it.

        Raises:
            UserError: another process writes to it, a file of it is missing or damaged, or it is a plain
                snapshot, which is never written to.
        """
        if generations.current(folder) is None and (folder / "facts.parquet").exists():
            raise UserError(
                f"{folder}: a snapshot, which is only read; name another folder for the changes, and this "
                "one to begin with (`python -m pipeline.memory … --folder NEW --start SNAPSHOT`)"
            )
        lock = FolderLock(folder)
        try:
            generations.clean(folder)
            if generations.current(folder) is None:
                first = cls(settings, encoder) if start is None else start
                generations.begin(folder, 1, 1, encoder.name, first.lay_down)
            generation = generations.upgraded(folder)
            assert generation is not None
            journal = Journal(generation.journal(folder), sync)
            memory = cls.open(folder, settings, encoder)
        except OSError as error:
            lock.close()
            raise UserError(f"{folder}: can't be written to ({error}); name another folder") from error
        except BaseException:
            lock.close()
            raise
        memory.folder, memory._lock, memory._journal = folder, lock, journal
        memory._generation, memory._sync = generation, sync
        return memory

    def upsert(
        self,
        facts: Sequence[Fact],
        replace: bool = False,
        progress: Progress | None = None,
        on: str = "",
    ) -> Receipt:
        """Add `facts` as `KnowledgeMemory.upsert` does; they are in the folder when this returns.

        Raises:
            UserError: as there; or the folder can't be written to. Nothing is changed then, except that with
                the policy `group` a disk that fails late ends the writing: see `Journal.settle`.
        """
        receipt = super().upsert(facts, replace, progress, on)
        self._journal.settle()
        return receipt

    def delete(self, facts: Iterable[Key], on: str = "") -> Receipt:
        """Remove facts as `KnowledgeMemory.delete` does; the folder knows when this returns.

        Raises:
            UserError: as `upsert`, or a fact is not in the memory.
        """
        receipt = super().delete(facts, on)
        self._journal.settle()
        return receipt

    def advance(self, on: str = "") -> Receipt:
        """Let time go on as `KnowledgeMemory.advance` does; the folder knows when this returns.

        Raises:
            UserError: as `upsert`, or the date can't be.
        """
        receipt = super().advance(on)
        self._journal.settle()
        return receipt

    def append(self, rows: Int[np.ndarray, "n 3"]) -> list[int]:
        """Let facts of known names hold, given by the rows of these; return their ids."""
        return self.upsert([Fact(*self._keys_of(row)) for row in rows.tolist()]).facts

    def _commit(self, change: Change) -> tuple[list[int], list[int]]:
        payload, number = encoded(change), self._journal.next
        try:
            self._journal.write(payload)
            return super()._commit(change)
        except BaseException:
            if self._journal.next != number:
                self._journal.refuse("a change was interrupted")
            raise

    @property
    def journal(self) -> Journal:
        """Where changes go since the last merge."""
        return self._journal

    def merge(self) -> None:
        """Fold the journal into a new snapshot; changes wait for it, searches go on.

        Raises:
            UserError: there is no room; the folder is as it was.
        """
        with self._writing:
            self._journal.settle()
            former = self._generation
            try:
                self._generation = generations.begin(
                    self.folder, former.number + 1, self._journal.next, self.encoder.name, self.lay_down
                )
                fresh = Journal(self._generation.journal(self.folder), self._sync)
            except BaseException:
                if generations.current(self.folder) != former:
                    self._journal.refuse("a merge was interrupted")
                raise
            self._journal.close()
            self._journal = fresh
            for path in (former.base(self.folder), former.journal(self.folder)):
                remove(path)

    def close(self) -> None:
        """End the writing; another process may begin."""
        with self._writing:
            try:
                self._journal.close()
            finally:
                self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
