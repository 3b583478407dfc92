"""An immutable memory on disk: facts in the order of head, relation and tail, and the names that they join.

A fact's id is its place in that order. Of each fact only the relation and the tail are kept; the head is
known by where its facts begin. All of it is mapped: opening reads nothing, and what no search touches stays
on disk.
"""

from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int

from pipeline.config import UserError
from pipeline.memory.codes import Codes
from pipeline.memory.flat import REMEDY, Flat
from pipeline.memory.offsets import Offsets, Ranges, Rows, expand
from pipeline.memory.strings import Keys, Strings

KIND = "base"
CODES = "entities.codes"
RELATIONS = "relations.vectors"


class Base:
    """Facts and names, mapped.

    Args:
        files: what `build` wrote.

    Raises:
        UserError: an array is missing.
    """

    def __init__(self, files: Flat) -> None:
        self.files = files
        self.tails = files["facts.tails"]
        """Tail of each fact."""
        self.relations = files["facts.relations"]
        """Relation of each fact; ascending among the facts of a head."""
        self.starts = Offsets(files, "heads")
        """Where the facts of each entity begin."""
        self.entity_keys = Keys(files, "entities.keys")
        self.entity_texts = Strings(files, "entities.texts")
        self.relation_keys = Keys(files, "relations.keys")
        self.relation_texts = Strings(files, "relations.texts")
        self.entity_codes = Codes.open(files, CODES) if f"{CODES}.factors" in files.arrays else None
        """Codes of the entities' vectors and maybe the vectors themselves; None where it has none."""
        self.relation_vectors = files[RELATIONS] if RELATIONS in files.arrays else None
        """Vectors of the relations in float16: [R, P]."""
        self._check()

    def _check(self) -> None:
        """Compare what each array says of how many there are.

        Raises:
            UserError: they don't belong together.
        """
        facts = {len(self.tails), len(self.relations), self.starts.end}
        entities = {len(self.starts), len(self.entity_keys), len(self.entity_texts)}
        relations = {len(self.relation_keys), len(self.relation_texts)}
        if self.entity_codes is not None:
            entities.add(len(self.entity_codes))
        if self.relation_vectors is not None:
            relations.add(len(self.relation_vectors))
        for numbers, kind in ((facts, "facts"), (entities, "entities"), (relations, "relations")):
            if len(numbers) > 1:
                counted = " and ".join(map(str, sorted(numbers)))
                raise UserError(f"{self.files.folder}: damaged (it holds {counted} {kind} at once); {REMEDY}")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the base in `folder`.

        Raises:
            UserError: a file is missing or damaged; the text names it and says what to do.
        """
        return cls(Flat.open(folder, KIND, scanned=f"{CODES}.word"))

    def __len__(self) -> int:
        return len(self.tails)

    @property
    def entities(self) -> int:
        """How many entities there are."""
        return len(self.starts)

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        start, end = self.starts.ranges(heads)
        counts: Rows = end - start
        return counts

    def of(self, heads: Rows) -> tuple[Rows, Rows]:
        """Return the ids of the facts of `heads`, one head after the other, and the place of each one's."""
        return expand(self.starts.ranges(heads))

    def slots(self, heads: Rows, relations: Rows) -> Ranges:
        """Return from which id to which the facts of each slot (head, relation) go."""
        none = np.zeros(len(heads), np.int64)
        return Ranges(self._before(heads, relations, none), self._before(heads, relations + 1, none))

    def slot(self, head: int, relation: int) -> Rows:
        """Return the ids of the facts of a slot."""
        [start], [end] = self.slots(np.array([head]), np.array([relation]))
        return np.arange(start, end)

    def find(self, triples: Int[np.ndarray, "n 3"]) -> Rows:
        """Return the id of each fact (head, relation, tail), -1 where there is none."""
        heads, relations, tails = triples.T
        place = self._before(heads, relations, tails)
        inside = np.flatnonzero(place < self.starts[heads + 1])
        rows = place[inside]
        right = (self.relations[rows] == relations[inside]) & (self.tails[rows] == tails[inside])
        found = np.full(len(triples), -1)
        found[inside[right]] = rows[right]
        return found

    def find_one(self, head: int, relation: int, tail: int) -> int | None:
        """Return the id of a fact, None where there is none or `head` is not of the base."""
        if not 0 <= head < self.entities:
            return None
        start, behind = self.starts.span(head)
        end = behind
        while start < end:
            middle = (start + end) // 2
            if (int(self.relations[middle]), int(self.tails[middle])) < (relation, tail):
                start = middle + 1
            else:
                end = middle
        right = start < behind and self.relations[start] == relation and self.tails[start] == tail
        return start if right else None

    def triples(self, ids: Rows) -> Int[np.ndarray, "n 3"]:
        """Return head, relation and tail of facts."""
        columns = self.starts.row(ids), self.relations[ids], self.tails[ids]
        return np.stack([column.astype(np.int64) for column in columns], axis=1)

    def _before(self, heads: Rows, relations: Rows, tails: Rows) -> Rows:
        """Return the first id among each head's facts that doesn't come before (relation, tail).

        All are bisected together: each round halves what is left of every one.
        """
        start, end = self.starts.ranges(heads)
        while len(open_ := np.flatnonzero(start < end)):
            middle = (start[open_] + end[open_]) // 2
            relation, tail = self.relations[middle].astype(np.int64), self.tails[middle].astype(np.int64)
            wanted = relations[open_]
            later = (relation > wanted) | ((relation == wanted) & (tail >= tails[open_]))
            end[open_[later]] = middle[later]
            start[open_[~later]] = middle[~later] + 1
        return start
