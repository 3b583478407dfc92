"""What a copy of a shard is asked: searches in two steps, and look-ups by stable keys."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.cluster.messages import Best, Named, Near, Slot, Told, distinct
from pipeline.cluster.replica import Replica, told
from pipeline.memory.dates import Periods
from pipeline.memory.facts import Candidates, Fact, Found, Key, Query
from pipeline.memory.labels import Labels
from pipeline.memory.names import Names
from pipeline.memory.scoring import Scoring
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


class Copy(Replica):
    """A copy of a shard that answers; every `on` is a date to look at, empty for now."""

    def __init__(self, folder: Path, settings: Memory, encoder: str, dimension: int, sync: str) -> None:
        super().__init__(folder, settings, encoder, dimension, sync)
        self._naming = Lock()  # labels remember what they have seen
        self._labels: tuple[KnowledgeMemory, dict[str, Labels]] | None = None

    def process(self) -> int:
        """Return the number of its process."""
        return os.getpid()

    def nearest(self, key: Float[Tensor, "B P"], settings: Memory, on: str = "") -> Near:
        """Return the heads nearest to questions; see `pipeline.memory.searching.Searching.heads`."""
        memory = self.memory(on)
        relations = len(memory.relations)
        if not len(memory):
            empty = torch.empty(len(key), 0)
            return Near(empty, empty.long(), [], [], relations)
        near, heads = self._scoring(memory, settings).heads(Query(key, key))
        rows, places = distinct(heads.clamp(min=0))
        keys, texts = ([names[row] for row in rows.tolist()] for names in _listed(memory.entities))
        return Near(near, places, keys, texts, relations)

    def _scoring(self, memory: KnowledgeMemory, settings: Memory) -> Scoring:
        """Return what searches as whoever asks is set up to."""
        return replace(memory.arrangement.scoring, settings=settings)

    def best_of_slots(self, key: Float[Tensor, "B P"], n: int, on: str = "") -> Best:
        """Return the n best facts, in the slot layout."""
        memory = self.memory(on)
        if not len(memory):
            return self._best(memory, Found.none(len(key), n, key.device))
        found = memory.arrangement.scoring.best_of_slots(Query(key, key), n)
        nowhere = torch.zeros_like(found.facts)
        return self._best(memory, Found(found, nowhere, nowhere[:, 0]))

    def best(
        self,
        keys: Sequence[str],
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relations: Sequence[str],
        shares: Float[Tensor, "B R"],
        n: int,
        settings: Memory,
        on: str = "",
    ) -> Best:
        """Return the n best facts of given heads.

        Args:
            keys: of the heads.
            heads: which of these each question looks into, in its order; -1 for those of other shards.
            near: how near each is.
            relations: keys of the relations.
            shares: their log-probabilities.
            n: facts wanted.
            settings: sizes and weights of the search.
            on: a date.
        """
        memory = self.memory(on)
        if not len(memory):
            return self._best(memory, Found.none(len(heads), n, heads.device))
        known = [memory.entities.find(key) for key in keys]
        rows = torch.tensor([-1 if row is None else row for row in [*known, None]])[heads]
        scoring = self._scoring(memory, settings)
        place = {key: place for place, key in enumerate(relations)}
        own = [place.get(key, len(relations)) for key in memory.relations.keys[: len(scoring.relations)]]
        # A relation that came to this shard after the question was scored: its facts are found next time.
        padded = torch.nn.functional.pad(shares, (0, 1), value=-torch.inf)
        return self._best(
            memory, scoring.found(rows, near.masked_fill(rows < 0, -torch.inf), padded[:, own], n)
        )

    def _best(self, memory: KnowledgeMemory, found: Found) -> Best:
        rows, places = distinct(found.candidates.facts)
        there = rows[rows >= 0]
        places = places - (len(rows) - len(there))
        candidates = found.candidates._replace(facts=places.clamp(min=-1))
        return Best(Candidates(*candidates), found.places, found.left_out, told(memory, there.tolist()))

    def named(self, keys: Sequence[str]) -> Named:
        """Return those of the entities that are known here, with their vectors."""
        return _named(self.memory().entities, keys)

    def relations(self, start: int = 0) -> Named:
        """Return the relations from the one with the number `start` on, with their vectors."""
        names = self.memory().relations
        return _named(names, list(names.keys[start:]))

    def slot_vectors(self, slots: Sequence[Slot]) -> Float[Tensor, "n P"]:
        """Return the vectors of slots, in the slot layout; zeros for those that aren't known."""
        memory = self.memory()
        keys = [self._slot(slot) for slot in slots]
        vectors = torch.zeros(len(slots), self._encoder.dimension)
        there = [i for i, key in enumerate(keys) if key is not None and key in memory.slots]
        if there:
            rows = [memory.slots.row(str(keys[i])) for i in there]
            vectors[there] = memory.slots.gather(torch.tensor(rows)).float()
        return vectors

    def facts_of(self, head: str, on: str = "") -> list[Told]:
        """Return the facts of a head that hold."""
        memory = self.memory(on)
        row = memory.entities.find(head)
        return [] if row is None else told(memory, memory.facts_of(row))

    def slot(self, head: str, relation: str, on: str = "") -> list[Told]:
        """Return the facts of a slot that hold."""
        memory = self.memory(on)
        rows = memory.entities.find(head), memory.relations.find(relation)
        return [] if rows[0] is None or rows[1] is None else told(memory, memory.slot(rows[0], rows[1]))

    def counts(self, heads: Sequence[str], on: str = "") -> list[int]:
        """Return how many facts of each head hold."""
        memory = self.memory(on)
        rows = [memory.entities.find(head) for head in heads]
        own = torch.tensor([row for row in rows if row is not None], dtype=torch.long).numpy()
        found = iter(memory.counts(own).tolist())
        return [0 if row is None else next(found) for row in rows]

    def known(self, keys: Sequence[Key]) -> list[tuple[Told, bool] | None]:
        """Return which facts hold or have a period, and whether they hold."""
        memory = self.memory()
        rows = [memory.known(key) for key in keys]
        return [
            None if row is None else (Told(key, memory.named(key)), memory.holds(row))
            for key, row in zip(keys, rows, strict=True)
        ]

    def fact(self, key: Key, on: str = "") -> Fact | None:
        """Return a fact with the dates that count, None where it was never written here."""
        memory = self.memory(on)
        ends = memory.entities.find(key[0]), memory.relations.find(key[1]), memory.entities.find(key[2])
        if None in ends:
            return None
        row = memory.known(key)
        return Fact(*key, *memory.named(key)) if row is None else memory.fact(row)

    def some(self) -> Told | None:
        """Return a fact that holds, None where there is none."""
        memory = self.memory()
        return next(iter(told(memory, memory.page(0, 1))), None)

    def periods(self, key: Key) -> Periods:
        """Return when a fact holds."""
        return self.memory().periods(key)

    def recorded(self, head: str, relation: str) -> list[Key]:
        """Return the facts of a slot that hold or have a period."""
        return self.memory().recorded(head, relation)

    def size(self, on: str = "") -> int:
        """Return how many facts hold."""
        return len(self.memory(on))

    def bearing(self, kind: str, name: str) -> list[list[tuple[str, str]]]:
        """Return keys and texts of what bears a name; see `pipeline.memory.labels.Labels.bearing`."""
        with self._naming:
            labels = self._named_by(kind)
            return [[(key, labels.label(key)) for key in keys] for keys in labels.bearing(name)]

    def alike(self, kind: str, name: str, count: int) -> list[str]:
        """Return the labels that are written most like a name."""
        with self._naming:
            return self._named_by(kind).alike(name, count)

    def _named_by(self, kind: str) -> Labels:
        memory = self.memory()
        if self._labels is None or self._labels[0] is not memory:
            self._labels = memory, {kind: memory.labels(kind) for kind in ("entity", "relation")}
        return self._labels[1][kind]


def _listed(names: Names) -> tuple[Sequence[str], Sequence[str]]:
    return names.keys, names.texts


def _named(names: Names, keys: Sequence[str]) -> Named:
    known = [(key, row) for key in keys if (row := names.find(key)) is not None]
    rows = [row for _, row in known]
    vectors = names.gather(torch.tensor(rows, dtype=torch.long)) if rows else torch.empty(0, 0)
    return Named([key for key, _ in known], [names.texts[row] for row in rows], vectors)
