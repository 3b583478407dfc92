"""Questions that no fact of any snapshot answers: a known entity's absent slot, or an unknown entity."""

import numpy as np
import pyarrow.compute as pc

from pipeline.kg.facts import Ids
from pipeline.kg.slots import Mask, Slots, sample

ATTEMPTS = 6
"""Candidates drawn for each question wanted; most are refused because the entity has the relation."""


def near_misses(
    slots: Slots, pool: Mask, wanted: int, share: float, random: np.random.Generator
) -> tuple[Ids, Ids]:
    """Return heads of `pool` [S] with relations that they lack but entities like them have.

    Like means: they share a relation. From a slot (h, r) go to another head of r, and from there to one
    of its relations; a pair that the graph holds in any snapshot, under any entity of the same label, is
    refused. Entities of a common kind share many relations, so their kind's relations come up most.

    Returns:
        Head ids and relation ids, at most `wanted` of them, no relation above `share`.
    """
    own = np.flatnonzero(pool)
    if wanted == 0 or len(own) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    _, inverse, counts = np.unique(slots.heads[own], return_inverse=True, return_counts=True)
    # Only a peer with a second relation leads anywhere.
    peers = own[counts[inverse] > 1]
    able = own[np.isin(slots.relations[own], slots.relations[peers])]
    if len(able) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    start = random.choice(able, size=wanted * ATTEMPTS)
    peer = _another(slots.relations, peers, start, random)
    goal = _another(slots.heads, peers, peer, random)
    heads, relations = slots.heads[start], slots.relations[goal]
    absent = ~np.isin(slots.wording(heads, relations), slots.wordings)
    wording = slots.wording(heads, relations)
    _, first = np.unique(np.where(absent, wording, -1), return_index=True)
    first = np.sort(first[absent[first]])
    heads, relations = heads[first], relations[first]
    picked = sample(relations, wanted, share, np.arange(len(relations)))
    return heads[picked], relations[picked]


def _another(groups: Ids, own: Ids, members: Ids, random: np.random.Generator) -> Ids:
    """Return for each of `members` a random slot of `own` in the same group (itself perhaps)."""
    order = own[np.argsort(groups[own], kind="stable")]
    left = np.searchsorted(groups[order], groups[members], side="left")
    right = np.searchsorted(groups[order], groups[members], side="right")
    result: Ids = order[random.integers(left, right)]
    return result


def strangers(
    slots: Slots, pool: Mask, wanted: int, used: set[str], random: np.random.Generator
) -> tuple[list[str], Ids]:
    """Return names that no entity bears, each with a relation of the entities that it sounds like.

    A name is the front of one head's label and the back of another's that has the same relation, so that
    neither its look nor its relation gives it away.

    Args:
        slots: the slots, for names and relations.
        pool: which slots the names and relations come from: [S].
        wanted: how many.
        used: names given out before, case folded; grows, so that no name is in two splits.
        random: the source of chance.
    """
    own = np.flatnonzero(pool)
    if wanted == 0 or len(own) == 0:
        return [], np.empty(0, dtype=np.int64)
    labels = slots.graph.labels
    aliases = pc.list_flatten(slots.graph.entities["aliases"]).to_pylist()
    known = {name.casefold() for name in (*labels, *aliases) if name}
    front = random.choice(own, size=wanted * ATTEMPTS)
    back = _another(slots.relations, own, front, random)
    names: list[str] = []
    relations: list[int] = []
    for one, other in zip(front, back, strict=True):
        name = spliced(labels[slots.heads[one]], labels[slots.heads[other]])
        if len(names) == wanted:
            break
        if name.casefold() not in known and name.casefold() not in used:
            used.add(name.casefold())
            names.append(name)
            relations.append(int(slots.relations[one]))
    return names, np.array(relations, dtype=np.int64)


def spliced(front: str, back: str) -> str:
    """Return the first half of `front` with the second half of `back`, by words where both have several.

    >>> spliced("Marie Curie", "Albert Einstein")
    'Marie Einstein'
    >>> spliced("Lisbon", "Dresden")
    'Lisden'
    """
    words, others = front.split(), back.split()
    if len(words) > 1 and len(others) > 1:
        return " ".join(words[: (len(words) + 1) // 2] + others[(len(others) + 1) // 2 :])
    return front[: (len(front) + 1) // 2].rstrip() + back[(len(back) + 1) // 2 :]
