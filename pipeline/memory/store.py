"""The knowledge memory: facts that can be searched by a question and changed while it is in use."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory import snapshot
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import Searcher, searcher
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query, Receipt
from pipeline.memory.names import Names
from pipeline.memory.scoring import Scoring
from pipeline.memory.settings import Memory
from pipeline.memory.triples import Triples
from pipeline.shapes import CandidateFacts

BATCH = 64
"""Questions searched at once: bounds the width times height of the table of facts around their entities."""


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
        self._facts = Triples()
        self._slot_of = np.empty(0, dtype=np.int64)
        self._index: Adjacency | None = None
        self._searcher: Searcher | None = None

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
        for fact in facts:
            if not all(part.strip() for part in fact.key):
                raise UserError(f"fact {str(fact)!r}: head, relation and tail must not be empty")
        ends = [(f.head, f.head_label) for f in facts] + [(f.tail, f.tail_label) for f in facts]
        entities = self.entities.fresh(ends, "entity")
        relations = self.relations.fresh([(f.relation, f.relation_noun) for f in facts], "relation")
        self.entities.add(entities, progress)
        self.relations.add(relations, progress)
        wanted = [
            (self.entities.row(f.head), self.relations.row(f.relation), self.entities.row(f.tail))
            for f in facts
        ]
        slots = len(self.slots)
        if self.settings.layout == "slot":
            self._add_slots([(head, relation) for head, relation, _ in wanted], progress)
        superseded: set[int] = set()
        if replace:
            keep = set(wanted)
            for head, relation in {(head, relation) for head, relation, _ in wanted}:
                held = self.slot(head, relation)
                superseded |= {row for row in held if tuple(self.triples[row].tolist()) not in keep}
            self._facts.remove(superseded)
        rows = self._facts.add(wanted)
        self._index = None
        if self.settings.layout == "factored" or len(self.slots) != slots:
            self._searcher = None
        return Receipt(rows, len(entities), len(relations), sorted(superseded))

    def append(self, rows: Int[np.ndarray, "n 3"]) -> list[int]:
        """Let facts hold in bulk; return their ids, in the order given.

        Args:
            rows: of head, relation and tail, which are known, as are the slots in the slot layout.
        """
        found = self._facts.add([(head, relation, tail) for head, relation, tail in rows.tolist()])
        self._index = self._searcher = None
        return found

    def add_slots(self, progress: Progress | None = None) -> None:
        """Give every slot a vector, whatever the layout, so that a snapshot can be opened with either."""
        self._add_slots([(head, relation) for head, relation, _ in self.triples.tolist()], progress)

    def _add_slots(self, slots: Iterable[tuple[int, int]], progress: Progress | None) -> None:
        self.slots.add({slot_key(h, r): self.slot_text(h, r) for h, r in slots}, progress)

    def delete(self, facts: Iterable[Key]) -> Receipt:
        """Remove facts by stable key; they are not found by the next search.

        Raises:
            UserError: a fact is not in the memory; nothing is removed then.
        """
        rows: dict[int, None] = {}
        for key in facts:
            row = self.find(*key)
            if row is None:
                raise UserError(f"fact {' | '.join(key)!r}: not in the memory, so it can't be deleted")
            rows[row] = None
        self._facts.remove(rows)
        self._index = None
        if self.settings.layout == "factored":
            self._searcher = None
        return Receipt(list(rows))

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of the live fact with that stable key, or None."""
        if not (head in self.entities and relation in self.relations and tail in self.entities):
            return None
        return self._facts.find(
            (self.entities.row(head), self.relations.row(relation), self.entities.row(tail))
        )

    def fact(self, row: int) -> Fact:
        """Return the fact with the id `row`, names included."""
        head, relation, tail = self.triples[row].tolist()
        return Fact(
            self.entities.keys[head],
            self.relations.keys[relation],
            self.entities.keys[tail],
            self.entities.texts[head],
            self.relations.texts[relation],
            self.entities.texts[tail],
        )

    def text(self, row: int) -> str:
        """Return the fact as the sentence that a language model reads."""
        fact = self.fact(row)
        return f"The {fact.relation_noun} of {fact.head_label} is {fact.tail_label}."

    def slot_text(self, head: int, relation: int) -> str:
        """Return the key of a slot, as KG2KV words it."""
        return f"the {self.relations.texts[relation]} of {self.entities.texts[head]}"

    def facts_of(self, entity: int) -> list[int]:
        """Return the ids of the live facts whose head is `entity`."""
        return self.adjacency.by_head[entity]

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the ids of the live facts of a slot."""
        return [row for row in self.facts_of(head) if self.triples[row, 1] == relation]

    def search(self, query: Query, n: int | None = None) -> Candidates:
        """Return the n facts (by default N) that fit each question best; see `Scoring` for how well.

        Facts of one slot follow each other.
        """
        wanted = n or self.settings.N
        if not len(self) or not len(query.key):
            return Candidates.none(len(query.key), wanted, self.device)
        scoring, nearest = self._scoring, self._nearest()
        starts = range(0, len(query.key), BATCH)
        parts = [scoring.search(query.rows(i, i + BATCH), wanted, nearest) for i in starts]
        return Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def score(self, query: Query, facts: CandidateFacts, via: CandidateFacts | None = None) -> Candidates:
        """Return given facts with their scores, with gradients into the query; see `Scoring.score`."""
        if not len(self.triples):
            return Candidates.none(len(facts), facts.shape[1], self.device)
        return self._scoring.score(query, facts, via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        if not len(self.triples):
            return torch.zeros(*facts.shape, self.encoder.dimension, device=self.device)
        return self._scoring.keys(facts)

    @contextmanager
    def only(self, rows: Sequence[int]) -> Iterator[None]:
        """Hold the facts `rows` alone inside this block, in which nothing may be changed."""
        alive = self._facts.alive
        self._facts.alive = np.isin(np.arange(len(alive)), rows) & alive
        self._index = self._searcher = None
        try:
            yield
        finally:
            self._facts.alive = alive
            self._index = self._searcher = None

    @property
    def adjacency(self) -> Adjacency:
        """The live facts by head and by slot, rebuilt after a change."""
        if self._index is None:
            sizes = len(self.entities), len(self.slots)
            self._index = Adjacency(self.triples, self._slots(), self._facts.alive, *sizes, self.device)
        return self._index

    def _slots(self) -> Int[np.ndarray, " M"]:
        """Return the slot row of each fact; zeros in the factored layout, which has none."""
        if self.settings.layout != "slot":
            return np.zeros(len(self.triples), dtype=np.int64)
        known = len(self._slot_of)
        fresh = [self.slots.row(slot_key(h, r)) for h, r, _ in self.triples[known:].tolist()]
        self._slot_of = np.concatenate([self._slot_of, np.array(fresh, dtype=np.int64)])
        return self._slot_of

    @property
    def _scoring(self) -> Scoring:
        vectors = self.entities.vectors, self.relations.vectors, self.slots.vectors
        return Scoring(self.adjacency, *vectors, self.settings)

    def _nearest(self) -> Searcher:
        """Return what searches the slots, or the entities that head a fact: others would take a place."""
        if self._searcher is None:
            names = self.slots if self.settings.layout == "slot" else self.entities
            heads = self.adjacency.by_head.filled
            some = self.settings.layout == "factored" and len(heads) < len(names)
            self._searcher = searcher(names.vectors[heads] if some else names.vectors, self.settings)
        return self._searcher

    @property
    def _names(self) -> dict[str, Names]:
        return {"entities": self.entities, "relations": self.relations, "slots": self.slots}

    def snapshot(self, folder: Path) -> None:
        """Write the memory to `folder`, from which `open` reads it back."""
        snapshot.write(folder, self._names, self._facts)

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> "KnowledgeMemory":
        """Return the memory that `snapshot` wrote to `folder`; the encoder is not needed until a name is new.

        Raises:
            UserError: a file is missing or damaged, or the layout needs vectors that aren't there.
        """
        memory = cls(settings, encoder)
        memory._facts = snapshot.read(folder, memory._names)
        if settings.layout == "slot" and len(memory) and not len(memory.slots):
            raise UserError(
                f"{folder}: holds no slot vectors, which memory.layout=slot needs; run the stage `index`"
            )
        return memory


def slot_key(head: int, relation: int) -> str:
    """Return the key that `KnowledgeMemory.slots` knows the slot of two rows by."""
    return f"{head}/{relation}"
