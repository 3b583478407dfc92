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

    def add_slots(self, progress: Progress | None = None) -> None:
        """Give every slot a vector, whatever the layout, so that a snapshot can be opened with either."""
        self._add_slots([(head, relation) for head, relation, _ in self.triples.tolist()], progress)

    def _add_slots(self, slots: Iterable[tuple[int, int]], progress: Progress | None) -> None:
        self.slots.add({_slot_key(h, r): self.slot_text(h, r) for h, r in slots}, progress)

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
        """Return the n facts (by default N) that fit each question best.

        The factored score of a fact (h, r, t) is q_e·e_h + w · log softmax_r(q_r·R); facts of the same
        slot score alike and follow each other. The slot score is q_k·b with the slot's
        vector b.
        """
        wanted = n or self.settings.N
        if not len(self) or not len(query.key):
            scores = torch.full((len(query.key), wanted), -torch.inf, device=self.device)
            zeros = torch.zeros_like(scores)
            return Candidates(torch.full_like(scores, -1, dtype=torch.long), scores, zeros, zeros)
        starts = range(0, len(query.key), BATCH)
        parts = [self._search(Query(*(part[i : i + BATCH] for part in query)), wanted) for i in starts]
        return Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _search(self, query: Query, n: int) -> Candidates:
        adjacency = self.adjacency
        if self.settings.layout == "slot":
            # Slots whose facts were all deleted keep their vectors: as many more are looked at.
            best, groups = self._nearest(self.slots).search(query.key, n + adjacency.by_slot.empty)
            facts, owner, valid = adjacency.by_slot.expand(groups)
            entity = best.gather(1, owner)
            relation = torch.zeros_like(entity)
        else:
            heads = adjacency.by_head.filled  # an entity that heads no fact would only take a place
            best, places = self._nearest(self.entities, heads).search(query.key, self.settings.entities)
            groups = heads[places]
            facts, owner, valid = adjacency.by_head.expand(groups)
            entity = best.gather(1, owner)
            logits = query.relation.float() @ self.relations.vectors.float().T
            of_fact = adjacency.relation[facts.clamp(min=0)]
            relation = torch.log_softmax(logits, dim=-1).gather(1, of_fact)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(~valid, -torch.inf)
        return Candidates.best(n, facts, scores, entity, relation)

    def score(self, query: Query, facts: CandidateFacts) -> Candidates:
        """Return given facts with their scores, with gradients into the query; -inf where the id is -1."""
        rows, none = facts.clamp(min=0), facts < 0
        if not len(self.triples):
            zeros = torch.zeros(facts.shape, device=self.device)
            return Candidates(facts, zeros.masked_fill(none, -torch.inf), zeros, zeros)
        adjacency = self.adjacency
        if self.settings.layout == "slot":
            keys = self.slots.vectors[adjacency.slot[rows]].float()
            relation = torch.zeros(facts.shape, device=self.device)
        else:
            keys = self.entities.vectors[adjacency.head[rows]].float()
            logits = query.relation @ self.relations.vectors.float().T
            relation = torch.log_softmax(logits, dim=-1).gather(1, adjacency.relation[rows])
        entity = torch.einsum("bp,bnp->bn", query.key, keys)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(none, -torch.inf)
        return Candidates(facts, scores, entity.masked_fill(none, 0.0), relation.masked_fill(none, 0.0))

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r, the sum of its slot's two vectors; 0 for -1."""
        if not len(self.triples):
            return torch.zeros(*facts.shape, self.encoder.dimension, device=self.device)
        rows = facts.clamp(min=0)
        heads = self.entities.vectors[self.adjacency.head[rows]].float()
        keys = heads + self.relations.vectors[self.adjacency.relation[rows]].float()
        return keys.masked_fill((facts < 0)[..., None], 0.0)

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
        fresh = [self.slots.row(_slot_key(h, r)) for h, r, _ in self.triples[known:].tolist()]
        self._slot_of = np.concatenate([self._slot_of, np.array(fresh, dtype=np.int64)])
        return self._slot_of

    def _nearest(self, names: Names, rows: Int[Tensor, " n"] | None = None) -> Searcher:
        if self._searcher is None:
            s = self.settings
            vectors = names.vectors if rows is None or len(rows) == len(names) else names.vectors[rows]
            self._searcher = searcher(
                vectors, s.backend, s.links, s.lists, s.probes, s.roots, s.inner
            )
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


def _slot_key(head: int, relation: int) -> str:
    return f"{head}/{relation}"
