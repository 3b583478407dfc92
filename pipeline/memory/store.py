"""The knowledge memory: facts that can be searched by a question and changed while it is in use."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int

from pipeline.config import UserError
from pipeline.memory import generations, snapshot
from pipeline.memory.base import Base
from pipeline.memory.changes import KINDS, Change
from pipeline.memory.chronicle import Chronicle
from pipeline.memory.dates import day
from pipeline.memory.dating import Settled, date_of, rivals, settled, written
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.folding import fold
from pipeline.memory.held import HeldFacts
from pipeline.memory.planning import planned, slot_key
from pipeline.memory.settings import Memory
from pipeline.memory.shelved import Shelved
from pipeline.memory.triples import Cut, Triples

VIEWS = 8
"""Dates of which what held then is kept until the next change."""


class KnowledgeMemory(HeldFacts):
    """A memory that is changed, and that knows when its facts held.

    A change has a date, today by default, and lets facts begin and end until then. What held on another date
    is told by `as_of`. Of facts without dates nothing is kept but that they hold.

    Args:
        settings: layout and sizes of the search.
        encoder: turns the names of new entities, relations and slots into vectors.
    """

    _date = ""
    """Date that this is a view of another memory as of; empty where it is none."""
    _version = 1

    def _hold(self, facts: Triples, chronicle: Chronicle) -> None:
        super()._hold(facts, chronicle)
        self._past: dict[str, KnowledgeMemory] = {}  # views that were asked for since the last change

    @property
    def version(self) -> int:
        """A number that grows with every change, in a folder also over restarts.

        What is looked up after it was read holds every change that it counts.
        """
        return self._version

    def _take(self, held: generations.Contents) -> None:
        """Hold what was read from a folder, and nothing else."""
        self.entities, self.relations, self.slots = (held.names[kind] for kind in KINDS)
        self._hold(held.facts, held.chronicle)
        KnowledgeMemory._commit(self, held.since)  # a subclass would write it again

    def upsert(
        self,
        facts: Sequence[Fact],
        replace: bool = False,
        progress: Progress | None = None,
        on: str = "",
    ) -> Receipt:
        """Add `facts`; they are found by the next search, if they hold on the date of the change.

        Args:
            facts: with keys; labels and nouns are needed where a key is new.
            replace: whether a fact supersedes the other facts of its slot, as `pipeline.memory.conflicts`
                resolves it; those of one call stand side by side.
            progress: wraps the iteration over batches of new texts.
            on: date of the change; empty for today.

        Returns:
            A receipt with the ids of the facts, old or new, in the order given.

        Raises:
            UserError: a new entity or relation comes without a name, a field is empty, or a date can't be;
                nothing is changed then.
        """
        with self._writing:
            change = planned(facts, self._names, self.settings.layout, progress)
            new = len(change.new["entities"].keys), len(change.new["relations"].keys)
            against = rivals(facts, self) if replace else {}
            if not (against or on or len(self.chronicle) or any(fact.dated for fact in facts)):
                return Receipt(self._commit(change)[0], *new)
            made = settled(change, facts, against, date_of(on, self), self)
            rows = dict(zip(made.change.written, self._commit(made.change)[0], strict=True))
            return self._receipt(made, rows, change.written, new)

    def _receipt(
        self,
        made: Settled,
        found: Mapping[Key, int] | None = None,
        facts: Sequence[Key] = (),
        new: tuple[int, int] = (0, 0),
    ) -> Receipt:
        """Return the receipt for a change that was carried out to these facts; `found` holds rows of some."""
        known = dict(found or {})

        def rows(keys: Collection[Key]) -> list[int]:
            if others := [key for key in keys if key not in known]:
                known.update(zip(others, self._facts.place(list(map(self._triple, others))), strict=True))
            return [known[key] for key in keys]

        outcome = made.outcome
        with self._state:
            lost = zip(rows(outcome.lost), outcome.lost.values(), strict=True)
            told = {row: f"{self.text(rows([loss.winner])[0])} It is {loss.why}." for row, loss in lost}
            superseded = sorted(rows(outcome.superseded))
            return Receipt(rows(facts), *new, superseded, told, rows(made.begun), rows(made.ended))

    def _commit(self, change: Change) -> tuple[list[int], list[int]]:
        """Carry out a change that was checked; return the ids written and removed."""
        if self._date:
            raise UserError(f"what held as of {self._date} can't be changed; change the memory that it is of")
        with self._state:
            self._past, self._version = {}, self._version + 1
            for kind, new in change.new.items():
                if new.keys:
                    self._names[kind].restore(*new)
            gone = [row for key in change.removed if (row := self.find(*key)) is not None]
            went = self._facts.remove(gone)
            rows, came = self._facts.add(self._triples(change.written))
            if change.on:
                dated = self._facts.place(self._triples(list(change.dated))) if change.dated else []
                self.chronicle.take(dict(zip(dated, change.dated.values(), strict=True)), change.on)
            self.arrangement.changed(went, came)
        return rows, gone

    def advance(self, on: str = "") -> Receipt:
        """Let time go on to a date: facts begin and end.

        Args:
            on: the date; empty for today.

        Raises:
            UserError: it is no date, or before the memory's.
        """
        with self._writing:
            made = settled(Change(), (), {}, date_of(on, self), self)
            if made.change.on != self.chronicle.on:
                self._commit(made.change)
            return self._receipt(made)

    def as_of(self, date: str) -> "KnowledgeMemory":
        """Return what held on a date by all that is known now, to be looked up and searched, not changed.

        It stays as it is when this memory changes. Facts without dates held ever.

        Args:
            date: of any precision; a year or a month stands for its first day.

        Raises:
            UserError: it is no date.
        """
        on = written(date)
        with self._state:
            if on not in self._past:
                went, came = self.chronicle.differing(day(on))
                facts = self._facts.overlaid(went, came)
                past = KnowledgeMemory(self.settings, self.encoder)
                past.entities, past.relations, past.slots = self.entities, self.relations, self.slots
                past._state, past._date = self._state, on
                past._hold(facts, self.chronicle.as_of(on, facts))
                past.arrangement = self.arrangement.overlaid(facts, went, came)
                kept = list(self._past.items())[1 - VIEWS :]
                self._past = dict([*kept, (on, past)])
            return self._past[on]

    def append(self, rows: Int[np.ndarray, "n 3"]) -> list[int]:
        """Let facts hold in bulk; return their ids, in the order given.

        Args:
            rows: of head, relation and tail, which are known, as are the slots in the slot layout.
        """
        if len(self.chronicle) or self._date:
            return self.upsert([Fact(*self._keys_of(row)) for row in rows.tolist()]).facts
        with self._writing, self._state:
            self._past, self._version = {}, self._version + 1
            found, came = self._facts.add([(head, relation, tail) for head, relation, tail in rows.tolist()])
            self.arrangement.changed([], came)
        return found

    def add_slots(self, progress: Progress | None = None) -> None:
        """Give every slot a vector, whatever the layout, so that a snapshot can be opened with either."""
        with self._writing:
            wanted = {slot_key(h, r): self.slot_text(h, r) for h, r, _ in self.triples.tolist()}
            new = self.slots.encoded(wanted, progress)
            if new.keys:
                with self._state:
                    self.slots.restore(*new)

    def delete(self, facts: Iterable[Key], on: str = "") -> Receipt:
        """Take back facts by stable key: they are not found by the next search, and as of no date.

        Args:
            facts: that hold, or of which a period is known.
            on: date of the change; empty for today.

        Raises:
            UserError: a fact is not in the memory, or the date can't be; nothing is removed then.
        """
        keys = list(dict.fromkeys(facts))
        with self._writing:
            rows = [self._known(key) for key in keys]
            made = settled(Change(removed=keys), (), {}, date_of(on, self), self)
            self._commit(made.change)
            return dataclasses.replace(self._receipt(made), facts=rows)

    def _known(self, key: Key) -> int:
        if (row := self.known(key)) is None:
            raise UserError(f"fact {' | '.join(key)!r}: not in the memory, so it can't be deleted")
        return row

    def snapshot(self, folder: Path) -> None:
        """Write the memory to `folder`, from which `open` reads it back into RAM."""
        snapshot.write(folder, self._names, self._facts, self.chronicle)

    def lay_down(self, folder: Path) -> None:
        """Write the memory to a new `folder`, from which `open` maps it: as a base.

        The slot layout, whose vectors a base doesn't hold, writes a snapshot.

        Raises:
            UserError: there is no room.
        """
        if self.settings.layout == "factored":
            fold(folder, self._names, self._facts, self.chronicle)
        else:
            self.snapshot(folder)

    def rebasing(self, base: Base, cut: Cut) -> Callable[[], None]:
        """Return what lets this memory, of the factored layout, stand on a base, with the changes since.

        Ids stay as they are. Searches go on meanwhile; changes may, too, but for the second call,
        which takes little time.

        Args:
            base: of the names that there are, or were, and of the facts that held at the cut.
            cut: of this memory.
        """
        entities = self.entities
        if base.entity_codes is not None:
            entities = Shelved(self.encoder, base.entity_keys, base.entity_texts, base.entity_codes)
        rebased = self._facts.rebased(base, cut)
        standing = self.arrangement.on_disk(base, entities, rebased.numbering)
        if self.arrangement.used:
            standing.prepare()

        def rebase() -> None:
            facts = rebased.table()
            if entities is not self.entities:
                for block in self.entities.blocks(start=base.entities):
                    entities.restore(*block)
            arrangement = self.arrangement.moved(facts, self._names | {"entities": entities}, standing)
            with self._state:
                self.entities, self._facts, self.arrangement = entities, facts, arrangement
                self.chronicle.rebase(facts)
                self._past = {}

        return rebase

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> Self:
        """Return the memory in `folder`; the encoder is not needed until a name is new.

        It may be what `snapshot` wrote or the folder of a `DurableMemory`, which another process may write
        to meanwhile. Changes to what is returned are not written to the folder.

        Raises:
            UserError: a file is missing or damaged, or the layout needs vectors that aren't there.
        """
        while True:
            generation, memory = generations.current(folder), cls(settings, encoder)
            try:
                held = generations.read(folder, encoder, settings.layout)
                break
            except UserError:
                if generations.current(folder) == generation:  # else it was merged meanwhile
                    raise
        memory._take(held)
        if settings.layout == "slot" and memory._facts.end:
            if not len(memory.slots) and generation is None:
                raise UserError(
                    f"{folder}: holds no slot vectors, which memory.layout=slot needs; run the stage `index`"
                )
            memory.add_slots()
        return memory
