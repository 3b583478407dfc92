"""A knowledge memory whose changes are in its folder, whole, before they are acknowledged."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.base import Base
from pipeline.memory.changes import Change, encoded
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.generations import Generation
from pipeline.memory.journal import Journal
from pipeline.memory.lock import Closing, FolderLock
from pipeline.memory.merging import BASE, Merging, Task
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.triples import Cut

SHARE = 16
"""A merge of `memory.merge_after` changes waits until they are a sixteenth of all facts."""

logger = logging.getLogger(__name__)


class DurableMemory(Closing, KnowledgeMemory):
    """A memory that is open for writing; `begun` makes it.

    A change is checked, then written to the journal, then carried out, so that one which is refused leaves
    folder and memory as they were. Changes of several threads follow each other; searches don't wait for the
    disk and see each change whole or not at all. With the policy `group` a search may see a change shortly
    before it is acknowledged. `close` it, or use it as a context manager.

    What changed is merged into a new snapshot beside all that, by `begin_merge` or, as `memory.merge_after`
    says, by itself. Ids stay as they are.
    """

    folder: Path
    _journal: Journal
    _lock: FolderLock
    _generation: Generation
    _sync: str
    _changed: int
    """Facts that were changed since the last merge began."""
    _merging: Merging | None = None
    _held_off = False  # whether none may begin

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
        memory._generation, memory._sync, memory._version = generation, sync, journal.next
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

    def _take(self, held: generations.Contents) -> None:
        super()._take(held)
        self._changed = len(held.since.written) + len(held.since.removed)

    def _commit(self, change: Change) -> tuple[list[int], list[int]]:
        payload, number = encoded(change), self._journal.next
        try:
            self._journal.write(payload)
            rows = super()._commit(change)
        except BaseException:
            if self._journal.next != number:
                self._journal.refuse("a change was interrupted")
            raise
        self._changed += len(change.written) + len(change.removed)
        after = self.settings.merge_after
        if after and self._changed >= max(after, len(self) // SHARE) and self.settings.layout == "factored":
            try:
                self.begin_merge()
            except UserError as error:  # the change was carried out, which its receipt shall tell
                logger.error("%s", error)
        return rows

    @property
    def journal(self) -> Journal:
        """Where changes go since the last merge."""
        return self._journal

    @property
    def merging(self) -> Merging | None:
        """The merge that goes on, or the last one; None where there was none."""
        return self._merging

    def begin_merge(self) -> None:
        """Let what has changed so far be folded into a new snapshot while changes and searches go on.

        A merge that goes on already is left alone; `merging.wait()` waits for it. The slot layout, whose
        vectors lie in RAM, is merged before this returns.

        Raises:
            UserError: it can't be begun; the folder is as it was.
        """
        if self.settings.layout != "factored":
            return self.merge()
        with self._writing:
            if self._held_off or (self._merging is not None and self._merging.going):
                return None
            self._journal.settle()
            self._changed = 0
            cut, until, work = self._facts.cut(), self._journal.size, self._generation.work(self.folder)
            planned = self._generation.later(self._journal.next)
            places, told = (str(self.folder.resolve()), str(work.resolve())), asdict(self.settings)
            task = Task(places[0], until, places[1], self.encoder.name, told, os.getpid())
            try:
                self._merging = self._begun_merge(
                    task, partial(self._adopt, planned, work / BASE, until, cut)
                )
            except OSError as error:
                raise UserError(f"{self.folder}: a merge can't be begun ({error})") from error

    def _begun_merge(self, task: Task, adopt: Callable[[Mapping[str, str]], None]) -> Merging:
        return Merging(task, adopt)

    def _adopt(
        self, planned: Generation, written: Path, until: int, cut: Cut, files: Mapping[str, str]
    ) -> None:
        """Go over to a snapshot that was written beside this memory.

        Args:
            planned: the generation that it is to be of.
            written: the snapshot.
            until: byte of the journal at which the changes begin that are not in it.
            cut: which facts it holds.
            files: its checksums.

        Raises:
            UserError: there is no room, the disk fails, or another merge came first.
        """
        generation, rebase = replace(planned, files=dict(files)), self.rebasing(Base.open(written), cut)
        with self._writing:
            former = self._generation
            if former.number != generation.number - 1:
                raise UserError("another merge came first")
            self._journal.settle()
            with generations.counting(self.folder, generation), self._unbroken(former):
                written.rename(generation.base(self.folder))
                with self._journal.file.open("rb") as stream:
                    stream.seek(until)
                    since = stream.read(self._journal.size - until)
                generations.follow(self.folder, generation, since)
                self._go_over(generation, rebase)
        former.remove(self.folder)  # which takes a while

    def merge(self) -> None:
        """Fold the journal into a new snapshot; changes wait for it, searches go on.

        A merge that goes on beside is given up for it.

        Raises:
            UserError: there is no room; the folder is as it was.
        """
        self._stop_merging()
        try:
            with self._writing, self._unbroken(self._generation):
                self._journal.settle()
                former = self._generation
                number, cut = former.number + 1, self._facts.cut()
                generation = generations.begin(
                    self.folder, number, self._journal.next, self.encoder.name, self.lay_down
                )
                mapped = self.settings.layout == "factored"
                base = generation.base(self.folder)
                self._go_over(generation, self.rebasing(Base.open(base), cut) if mapped else None)
                self._changed = 0
            former.remove(self.folder)  # which takes a while
        finally:
            self._held_off = False

    @contextmanager
    def _unbroken(self, former: Generation) -> Iterator[None]:
        """Take no further change where what is in this block breaks off while `former` counts no longer."""
        try:
            yield
        except BaseException:
            if generations.current(self.folder) != former:
                self._journal.refuse("a merge was interrupted")
            raise

    def _go_over(self, generation: Generation, rebase: Callable[[], None] | None) -> None:
        """Write to the journal of a generation that counts now, and search its snapshot by `rebase`."""
        fresh = Journal(generation.journal(self.folder), self._sync)
        self._journal.close()
        self._journal, self._generation = fresh, generation
        if rebase is not None:
            rebase()

    def _stop_merging(self) -> None:
        """Give up the merge that goes on; none is begun until `_held_off` is taken back."""
        with self._writing:
            self._held_off = True
        if self._merging is not None:
            self._merging.stop()

    def close(self) -> None:
        """End the writing; another process may begin. A merge that goes on is given up."""
        self._stop_merging()
        with self._writing, closing(self._lock):
            self._journal.close()
