"""A memory's facts as searches take them: how they were laid out last, and what changed since."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import Searcher, searcher
from pipeline.memory.base import Base
from pipeline.memory.delta import Delta
from pipeline.memory.names import Names
from pipeline.memory.numbering import Numbering
from pipeline.memory.offsets import Rows
from pipeline.memory.on_device import OnDevice
from pipeline.memory.planning import slot_key
from pipeline.memory.scoring import Scoring, Slots
from pipeline.memory.settings import Memory
from pipeline.memory.standing import InMemory, OnDisk, Standing
from pipeline.memory.triples import Triples

CHANGES = 4096
"""Facts that may change before those in arrays are laid out anew, or a sixteenth of all if that is more."""


class Arrangement:
    """Facts of a memory by head and slot.

    Args:
        facts: the table of them.
        names: entities, relations and slots.
        settings: layout and sizes of the search.
        device: of queries and vectors.
        lock: is held while the facts change.
    """

    def __init__(
        self,
        facts: Triples,
        names: Mapping[str, Names],
        settings: Memory,
        device: torch.device,
        lock: AbstractContextManager[object],
    ) -> None:
        self._lock = lock
        self._facts = facts
        self._names = names
        self._settings = settings
        self._device = device
        self._slot_of = np.empty(0, dtype=np.int64)
        self._nearest: Searcher | None = None  # one that was given
        self._laid_out: tuple[Standing, Delta] | None = None
        self._slots: Slots | None = None
        self._relations: Float[Tensor, "R P"] | None = None  # as they were read last; they only get more

    def changed(self, went: Sequence[int], came: Sequence[int]) -> None:
        """Take in rows of facts that held and went, and of facts that didn't hold and came."""
        if self._laid_out is None:
            return
        _, delta = self._laid_out
        few = self._few(len(delta) + len(went) + len(came))
        if self._facts.base is not None or (few and self._settings.layout == "factored"):
            delta.turn(went, came)
        else:
            self.drop()

    def overlaid(self, facts: Triples, went: Sequence[int], came: Sequence[int]) -> "Arrangement":
        """Return the arrangement of other facts, sharing what these are laid out as.

        Args:
            facts: those of this arrangement as they are now, but for `went` and `came`.
            went: rows of facts that hold here and not there.
            came: rows of facts that hold there and not here.
        """
        other = Arrangement(facts, self._names, self._settings, self._device, self._lock)
        other._nearest, other._slots, other._slot_of = self._nearest, self._slots, self._slot_of
        if self._settings.layout == "slot":
            return other
        standing, delta = self._laid()
        gone, late = map(set, delta.since())
        without, more = (gone - set(came)) | (set(went) - late), (late - set(went)) | (set(came) - gone)
        if facts.base is not None or self._few(len(without) + len(more)):
            other._laid_out = standing, Delta(facts, standing)
            other._laid_out[1].turn(sorted(without), sorted(more))
        return other

    def on_disk(self, base: Base, entities: Names, numbering: Numbering) -> OnDisk:
        """Return what searches the facts of a base as these are searched."""
        kind = OnDevice if self._device.type == "cuda" else OnDisk
        return kind(base, entities, self._settings, self._device, numbering)

    def moved(self, facts: Triples, names: Mapping[str, Names], standing: OnDisk) -> "Arrangement":
        """Return the arrangement of the same facts over another base.

        Args:
            facts: over that base.
            names: of it.
            standing: searches it.
        """
        other = Arrangement(facts, names, self._settings, self._device, self._lock)
        other._laid_out = standing, Delta(facts, standing)
        other._laid_out[1].turn(*facts.since_base())
        return other

    def _few(self, changes: int) -> bool:
        return changes <= max(CHANGES, len(self._facts) // 16)

    def lock_by(self, lock: AbstractContextManager[object]) -> None:
        """Let another lock be held while the facts change."""
        self._lock = lock

    @property
    def used(self) -> bool:
        """Whether the facts were laid out, as they are once something is looked for."""
        return self._laid_out is not None

    def drop(self) -> None:
        """Lay the facts out anew when they are next searched."""
        self._laid_out = None

    def prepare(self) -> None:
        """Lay the facts out, and read or build what the first search would."""
        with self._lock:
            standing, _ = self._laid()
        if isinstance(standing, OnDisk):
            standing.prepare()

    def _laid(self) -> tuple[Standing, Delta]:
        if self._laid_out is None:
            standing: Standing
            if self._facts.base is not None:
                standing = self.on_disk(self._facts.base, self._names["entities"], self._facts.numbering)
            else:
                adjacency = self._arrays()
                vectors = self._names["entities"].vectors
                standing = InMemory(adjacency, vectors, self._settings, self._nearest)
                self._slots = self._by_slot(adjacency) if self._settings.layout == "slot" else None
            self._laid_out = standing, Delta(self._facts, standing)
            if self._facts.base is not None:
                self._laid_out[1].turn(*self._facts.since_base())
        return self._laid_out

    def _by_slot(self, adjacency: Adjacency) -> Slots:
        vectors = self._names["slots"].vectors
        same = self._slots is not None and len(self._slots.vectors) == len(vectors)
        nearest = self._slots.nearest if self._slots and same else self._nearest
        return Slots(adjacency, vectors, nearest or searcher(vectors, self._settings))

    @property
    def base(self) -> Base | None:
        """The facts that stay on disk, None where all are in RAM."""
        return self._facts.base

    @property
    def searcher(self) -> Searcher:
        """What finds the slots, or the entities of facts in arrays.

        Raises:
            ValueError: the facts are on disk.
        """
        standing, _ = self._laid()
        if not isinstance(standing, InMemory):
            raise ValueError("the entities of a base are found in several ways")
        return self._slots.nearest if self._slots else standing.searcher

    @contextmanager
    def using(self, settings: Memory, nearest: Searcher | None) -> Iterator[None]:
        """Search by other settings inside this block, and by `nearest` where it is given."""
        former = self._settings, self._nearest, self._laid_out, self._slots
        self._settings, self._nearest, self._laid_out, self._slots = settings, nearest, None, None
        try:
            yield
        finally:
            self._settings, self._nearest, self._laid_out, self._slots = former

    def _arrays(self) -> Adjacency:
        sizes = len(self._names["entities"]), len(self._names["slots"])
        return Adjacency(self._facts.rows, self._slot_rows(), self._facts.alive, *sizes, self._device)

    def _slot_rows(self) -> Int[np.ndarray, " M"]:
        """Return the slot row of each fact; zeros in the factored layout, which has none."""
        if self._settings.layout != "slot":
            return np.zeros(self._facts.end, dtype=np.int64)
        slots, known = self._names["slots"], len(self._slot_of)
        fresh = [slots.row(slot_key(h, r)) for h, r, _ in self._facts.rows[known:].tolist()]
        self._slot_of = np.concatenate([self._slot_of, np.array(fresh, dtype=np.int64)])
        return self._slot_of

    @property
    def adjacency(self) -> Adjacency:
        """The facts that hold by head and by slot, in arrays."""
        with self._lock:
            standing, delta = self._laid()
            if isinstance(standing, InMemory) and len(delta):
                self.drop()
                standing, _ = self._laid()
            return standing.adjacency if isinstance(standing, InMemory) else self._arrays()

    @property
    def scoring(self) -> Scoring:
        """What searches the facts as they are now, whatever changes afterwards."""
        with self._lock:
            standing, delta = self._laid()
            names = self._names["entities"], self._relation_vectors()
            return Scoring(self._facts, standing, delta, delta.last, *names, self._slots, self._settings)

    def _relation_vectors(self) -> Float[Tensor, "R P"]:
        names = self._names["relations"]
        if self._relations is None or len(self._relations) != len(names):
            self._relations = names.vectors
        return self._relations

    def of(self, head: int) -> list[int]:
        """Return the facts of `head`."""
        with self._lock:
            standing, delta = self._laid()
            return _now(standing.of(head), *delta.of(head, delta.last))

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot."""
        with self._lock:
            standing, delta = self._laid()
            went, came = delta.of(head, delta.last)
            rows = np.array(came, dtype=np.int64)
            came = rows[self._facts.at(rows)[:, 1] == relation].tolist()
            return _now(standing.slot(head, relation), went, came)

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        with self._lock:
            standing, delta = self._laid()
            if not len(delta):
                return standing.counts(heads)
            return np.array([delta.count(head, delta.last) for head in heads.tolist()], dtype=np.int64)


def _now(laid_out: list[int], went: list[int], came: list[int]) -> list[int]:
    gone = set(went)
    return sorted([row for row in laid_out if row not in gone] + came) if gone or came else laid_out
