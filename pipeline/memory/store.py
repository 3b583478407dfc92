"""The knowledge memory: facts that can be searched by a question and changed while it is in use."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory import generations, snapshot
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.arrangement import Arrangement
from pipeline.memory.changes import KINDS, Change
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query, Receipt
from pipeline.memory.folding import fold
from pipeline.memory.names import Names
from pipeline.memory.offsets import Rows
from pipeline.memory.planning import planned, slot_key, slot_text
from pipeline.memory.scoring import BATCH
from pipeline.memory.settings import Memory
from pipeline.memory.triples import Triple, Triples
from pipeline.shapes import CandidateFacts


class KnowledgeMemory:
    """Facts over named entities and relations, searched by the vectors of their names.

    Ids are rows of this memory: stable while it lives, not across builds; `fact(id).key` is what is stable.

    Args:
        settings: layout and sizes of the search.
        encoder: turns the names of new entities, relations and slots into vectors.
    """

    def __init__(self, settings: Memory, encoder: TextEncoder) -> None:
        self.settings = settings
        self.encoder = encoder
        self.entities = Names(encoder)
        self.relations = Names(encoder)
        self.slots = Names(encoder)
        self._writing = RLock()  # one change at a time
        self._state = RLock()  # held while a change is carried out, and while a search takes what it needs
        self._hold(Triples())

    def _hold(self, facts: Triples) -> None:
        self._facts = facts
        self.arrangement = Arrangement(facts, self._names, self.settings, self.device, self._state)

    def _take(self, held: generations.Contents) -> None:
        """Hold what was read from a folder, and nothing else."""
        self.entities, self.relations, self.slots = (held.names[kind] for kind in KINDS)
        self._hold(held.facts)
        KnowledgeMemory._commit(self, held.since)  # a subclass would write it again

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def device(self) -> torch.device:
        """Where vectors are held and searched."""
        return self.encoder.device

    @property
    def alive(self) -> Bool[np.ndarray, " M"]:
        """Which of them hold."""
        return self._facts.alive

    @property
    def triples(self) -> Int[np.ndarray, "M 3"]:
        """Head, relation and tail rows of every fact ever written."""
        return self._facts.rows

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the rows of the heads, relations and tails of `facts`, ids of this memory."""
        return self._facts.columns(facts)

    def upsert(
        self, facts: Sequence[Fact], replace: bool = False, progress: Progress | None = None
    ) -> Receipt:
        """Add `facts`; they are found by the next search.

        Args:
            facts: with keys; labels and nouns are needed where a key is new.
            replace: whether a fact supersedes the other facts of its slot.
            progress: wraps the iteration over batches of new texts.

        Returns:
            A receipt with the ids of the facts, old or new, in the order given.

        Raises:
            UserError: a new entity or relation comes without a name, or a field is empty; nothing is
                changed then.
        """
        with self._writing:
            change = planned(facts, self._names, self.settings.layout, progress)
            if replace:
                change = dataclasses.replace(change, removed=self._others(change.written))
            rows, gone = self._commit(change)
        entities, relations = (len(change.new[kind].keys) for kind in ("entities", "relations"))
        return Receipt(rows, entities, relations, sorted(gone))

    def _others(self, written: Sequence[Key]) -> list[Key]:
        """Return the facts that hold in the slots of `written` without being among them."""
        slots = dict.fromkeys(key[:2] for key in written if key[0] in self.entities)
        keep = set(written)
        held = [
            self._key(row)
            for head, relation in slots
            if relation in self.relations
            for row in self.slot(self.entities.row(head), self.relations.row(relation))
        ]
        return [key for key in held if key not in keep]

    def _commit(self, change: Change) -> tuple[list[int], list[int]]:
        """Carry out a change that was checked; return the ids written and removed."""
        with self._state:
            for kind, new in change.new.items():
                if new.keys:
                    self._names[kind].restore(*new)
            gone = [row for key in change.removed if (row := self.find(*key)) is not None]
            went = self._facts.remove(gone)
            rows, came = self._facts.add([self._triple(key) for key in change.written])
            self.arrangement.changed(went, came)
        return rows, gone

    def append(self, rows: Int[np.ndarray, "n 3"]) -> list[int]:
        """Let facts hold in bulk; return their ids, in the order given.

        Args:
            rows: of head, relation and tail, which are known, as are the slots in the slot layout.
        """
        with self._writing, self._state:
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

    def delete(self, facts: Iterable[Key]) -> Receipt:
        """Remove facts by stable key; they are not found by the next search.

        Raises:
            UserError: a fact is not in the memory; nothing is removed then.
        """
        keys = list(dict.fromkeys(facts))
        with self._writing:
            for key in keys:
                if self.find(*key) is None:
                    raise UserError(f"fact {' | '.join(key)!r}: not in the memory, so it can't be deleted")
            _, gone = self._commit(Change(removed=keys))
        return Receipt(gone)

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of the live fact with that stable key, or None."""
        if not (head in self.entities and relation in self.relations and tail in self.entities):
            return None
        with self._state:
            return self._facts.find(self._triple((head, relation, tail)))

    def fact(self, row: int) -> Fact:
        """Return the fact with the id `row`, names included."""
        return Fact(*self._key(row), *self._named(row))

    def _key(self, row: int) -> Key:
        head, relation, tail = self._facts.at(np.array([row]))[0].tolist()
        return self.entities.keys[head], self.relations.keys[relation], self.entities.keys[tail]

    def _triple(self, key: Key) -> Triple:
        return self.entities.row(key[0]), self.relations.row(key[1]), self.entities.row(key[2])

    def text(self, row: int) -> str:
        """Return the fact as the sentence that a language model reads."""
        head, relation, tail = self._named(row)
        return f"The {relation} of {head} is {tail}."

    def _named(self, row: int) -> tuple[str, str, str]:
        head, relation, tail = self._facts.at(np.array([row]))[0].tolist()
        return self.entities.texts[head], self.relations.texts[relation], self.entities.texts[tail]

    def slot_text(self, head: int, relation: int) -> str:
        """Return the key of a slot, as KG2KV words it."""
        return slot_text(self.entities.texts[head], self.relations.texts[relation])

    def facts_of(self, entity: int) -> list[int]:
        """Return the ids of the live facts whose head is `entity`."""
        return self.arrangement.of(entity)

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the ids of the live facts of a slot."""
        return self.arrangement.slot(head, relation)

    def counts(self, heads: Rows) -> Rows:
        """Return how many live facts each of `heads` heads."""
        return self.arrangement.counts(heads)

    def search(self, query: Query, n: int | None = None) -> Candidates:
        """Return the n facts (by default N) that fit each question best; see `Scoring` for how well.

        Facts of one slot follow each other.
        """
        wanted = n or self.settings.N
        with self._state:  # a change goes on beside what is taken here, not into it
            if not len(self) or not len(query.key):
                return Candidates.none(len(query.key), wanted, self.device)
            scoring = self.arrangement.scoring
        starts = range(0, len(query.key), BATCH)
        parts = [scoring.search(query.rows(i, i + BATCH), wanted) for i in starts]
        return Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def score(self, query: Query, facts: CandidateFacts, via: CandidateFacts | None = None) -> Candidates:
        """Return given facts with their scores, with gradients into the query; see `Scoring.score`."""
        if not self._facts.end:
            return Candidates.none(len(facts), facts.shape[1], self.device)
        return self.arrangement.scoring.score(query, facts, via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        if not self._facts.end:
            return torch.zeros(*facts.shape, self.encoder.dimension, device=self.device)
        return self.arrangement.scoring.keys(facts)

    @contextmanager
    def only(self, rows: Sequence[int]) -> Iterator[None]:
        """Hold the facts `rows` alone inside this block, in which nothing may be changed."""
        alive = self._facts.alive
        self._facts.alive = np.isin(np.arange(len(alive)), rows) & alive
        self.arrangement.drop()
        try:
            yield
        finally:
            self._facts.alive = alive
            self.arrangement.drop()

    @property
    def adjacency(self) -> Adjacency:
        """The live facts by head and by slot, in arrays, rebuilt after a change."""
        return self.arrangement.adjacency

    @property
    def _names(self) -> dict[str, Names]:
        return {"entities": self.entities, "relations": self.relations, "slots": self.slots}

    def snapshot(self, folder: Path) -> None:
        """Write the memory to `folder`, from which `open` reads it back into RAM."""
        snapshot.write(folder, self._names, self._facts)

    def lay_down(self, folder: Path) -> None:
        """Write the memory to a new `folder`, from which `open` maps it: as a base.

        The slot layout, whose vectors a base doesn't hold, writes a snapshot.

        Raises:
            UserError: there is no room.
        """
        if self.settings.layout == "factored":
            fold(folder, self._names, self._facts)
        else:
            self.snapshot(folder)

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
        if settings.layout == "slot" and len(memory):
            if not len(memory.slots) and generation is None:
                raise UserError(
                    f"{folder}: holds no slot vectors, which memory.layout=slot needs; run the stage `index`"
                )
            memory.add_slots()
        return memory
