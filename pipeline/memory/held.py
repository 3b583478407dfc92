"""What a memory holds, to be looked up and searched."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.adjacency import Adjacency
from pipeline.memory.arrangement import Arrangement
from pipeline.memory.chronicle import PLAIN, Chronicle
from pipeline.memory.dates import Periods
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query
from pipeline.memory.labels import Labels
from pipeline.memory.names import Names
from pipeline.memory.offsets import Rows
from pipeline.memory.planning import slot_text
from pipeline.memory.settings import Memory
from pipeline.memory.triples import Triple, Triples
from pipeline.shapes import CandidateFacts


class HeldFacts:
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
        triples = Triples()
        self._hold(triples, Chronicle(triples))

    def _hold(self, facts: Triples, chronicle: Chronicle) -> None:
        self._facts = facts
        self.chronicle = chronicle
        self.arrangement = Arrangement(facts, self._names, self.settings, self.device, self._state)

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

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of the live fact with that stable key, or None."""
        if not (head in self.entities and relation in self.relations and tail in self.entities):
            return None
        with self._state:
            return self._facts.find(self._triple((head, relation, tail)))

    def known(self, key: Key) -> int | None:
        """Return the id of a fact that holds or has a period, None where there is none with that key."""
        head, relation, tail = (
            self.entities.find(key[0]),
            self.relations.find(key[1]),
            self.entities.find(key[2]),
        )
        if head is None or relation is None or tail is None:
            return None
        with self._state:
            row = self._facts.known((head, relation, tail))
            return row if row is not None and (row in self.chronicle or self._facts.holds(row)) else None

    def dated(self, key: Key) -> bool:
        """Return whether dates or sources of a fact are known."""
        if not len(self.chronicle):
            return False
        slot = self.entities.find(key[0]), self.relations.find(key[1])
        if slot[0] is None or slot[1] is None or not self.chronicle.knows(slot[0], slot[1]):
            return False  # most facts, which need not be looked for
        return (row := self.known(key)) is not None and row in self.chronicle

    def periods(self, key: Key) -> Periods:
        """Return when a fact holds: an unbounded period where no date is known, none where the fact isn't."""
        row = self.known(key)
        return () if row is None else self.chronicle.of(row) or PLAIN

    def recorded(self, head: str, relation: str) -> list[Key]:
        """Return the facts of a slot that hold or have a period."""
        rows = self.entities.find(head), self.relations.find(relation)
        if rows[0] is None or rows[1] is None:
            return []
        with self._state:
            found = {*self.slot(rows[0], rows[1]), *self.chronicle.slot(rows[0], rows[1])}
            return list(map(self._keys_of, self._facts.at(np.array(sorted(found), np.int64)).tolist()))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other thread change the memory inside this block, in which it may be changed."""
        with self._writing:
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let the memory stay as it is inside this short block, in which it is only looked up."""
        with self._state:
            yield

    def page(self, start: int, count: int) -> list[int]:
        """Return the first `count` ids from `start` on of facts that hold, ascending."""
        with self._state:
            found: list[int] = (np.flatnonzero(self._facts.alive[start:])[:count] + start).tolist()
        return found

    def holds(self, row: int) -> bool:
        """Return whether the fact with the id `row` holds."""
        with self._state:
            return self._facts.holds(row)

    def keys_held(self, block: int) -> Iterator[Key]:
        """Yield the keys of the facts that hold, `block` at a time; for a view, which stays as it is."""
        for triples in self._facts.held(block):
            for start in range(0, len(triples), block):
                yield from map(self._keys_of, triples[start : start + block].tolist())

    def facts_to(self, entity: int, most: int) -> list[int] | None:
        """Return the ids of the facts that hold and whose tail is `entity`, found by looking at all tails.

        Args:
            entity: row of the entity.
            most: facts that may be looked at.

        Returns:
            None where there are more than that.
        """
        with self._state:
            if self._facts.end > most:
                return None
            rows = np.flatnonzero((self._facts.rows[:, 2] == entity) & self._facts.alive)
        found: list[int] = rows.tolist()
        return found

    def fact(self, row: int) -> Fact:
        """Return the fact with the id `row`, names included, and the dates that count now."""
        period = self.chronicle.shown(row)
        return Fact(*self.key(row), *self._named(row), period.start, period.end, period.source)

    def some_fact(self) -> Fact:
        """Return a fact that holds; there must be one."""
        return self.fact(int(self.alive.argmax()))

    def key(self, row: int) -> Key:
        """Return the stable key of the fact with the id `row`."""
        return self._keys_of(self._facts.at(np.array([row]))[0].tolist())

    def _keys_of(self, triple: Sequence[int]) -> Key:
        head, relation, tail = triple
        return self.entities.keys[head], self.relations.keys[relation], self.entities.keys[tail]

    def _triple(self, key: Key) -> Triple:
        return self.entities.row(key[0]), self.relations.row(key[1]), self.entities.row(key[2])

    def _triples(self, keys: Sequence[Key]) -> list[Triple]:
        """Return the rows of heads, relations and tails of facts."""
        if not keys:
            return []
        heads, relations, tails = zip(*keys, strict=True)
        ends = self.entities.many(heads), self.relations.many(relations), self.entities.many(tails)
        return list(zip(*ends, strict=True))

    def text(self, row: int) -> str:
        """Return the fact as the sentence that a language model reads."""
        return self.told([row])[0]

    def told(self, rows: Sequence[int]) -> list[str]:
        """Return the facts as sentences, looked up together."""
        named = map(self._names_of, self._facts.at(np.array(rows, dtype=np.int64)).tolist())
        return [f"The {relation} of {head} is {tail}." for head, relation, tail in named]

    def named(self, key: Key) -> tuple[str, str, str]:
        """Return the texts of a fact's head, relation and tail, which must be known."""
        return self._names_of(self._triple(key))

    def _named(self, row: int) -> tuple[str, str, str]:
        return self._names_of(self._facts.at(np.array([row]))[0].tolist())

    def _names_of(self, triple: Sequence[int]) -> tuple[str, str, str]:
        head, relation, tail = triple
        return self.entities.texts[head], self.relations.texts[relation], self.entities.texts[tail]

    def slot_text(self, head: int, relation: int) -> str:
        """Return the key of a slot, as KG2KV words it."""
        return slot_text(self.entities.texts[head], self.relations.texts[relation])

    def labels(self, kind: str, others: Mapping[str, str] | None = None) -> Labels:
        """Return what finds an `entity` or a `relation` by its name, `others` included; see `Labels`."""
        return Labels(lambda: self.entities if kind == "entity" else self.relations, kind, others)

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
        size = scoring.standing.at_once
        starts = range(0, len(query.key), size)
        parts = [scoring.search(query.rows(i, i + size), wanted) for i in starts]
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
