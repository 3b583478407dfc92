"""A memory of some of another one's facts, with no name that they don't need."""

from collections.abc import Sequence

import numpy as np

from pipeline.memory.names import Names
from pipeline.memory.planning import slot_key
from pipeline.memory.store import KnowledgeMemory


def subset(memory: KnowledgeMemory, rows: Sequence[int]) -> KnowledgeMemory:
    """Return a new memory of the facts `rows`, in their order, with their vectors.

    `memory.only` leaves every name where it is, which is right for what is found and wrong for what it costs.
    All relations are kept, since a fact's score depends on the others.

    Args:
        memory: in the slot layout, if the new one is to be opened in it; entities alone need no slots.
        rows: ids of its facts, all different.
    """
    triples = memory.triples[list(rows)]
    kept = np.unique(triples[:, [0, 2]])
    place = np.full(len(memory.entities), -1)
    place[kept] = np.arange(len(kept))
    moved = np.stack([place[triples[:, 0]], triples[:, 1], place[triples[:, 2]]], axis=1)
    small = KnowledgeMemory(memory.settings, memory.encoder)
    _copy(memory.entities, small.entities, kept.tolist())
    _copy(memory.relations, small.relations, range(len(memory.relations)))
    if len(memory.slots):
        keys = {slot_key(h, r): slot_key(a, b) for (h, r, _), (a, b, _) in zip(triples, moved, strict=True)}
        _copy(memory.slots, small.slots, [memory.slots.row(key) for key in keys], list(keys.values()))
    small.append(moved)
    return small


def _copy(names: Names, to: Names, rows: Sequence[int], keys: Sequence[str] | None = None) -> None:
    """Add the names `rows` to `to`, under other keys where some are given."""
    new = [names.keys[row] for row in rows] if keys is None else keys
    to.restore(list(new), [names.texts[row] for row in rows], names.vectors[list(rows)])
