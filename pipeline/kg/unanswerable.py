"""Questions that no fact of any snapshot answers: a known entity's absent slot, or an unknown entity."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.kg.facts import Ids
from pipeline.kg.slots import Mask, Slots, sample

ATTEMPTS = 10
"""Candidates drawn for each question wanted; most are refused because the entity has the relation."""


def near_misses(
    slots: Slots, pool: Mask, wanted: int, share: float, random: np.random.Generator
) -> tuple[Ids, Ids]:
    """Return heads of `pool` [S] with relations that they lack but entities like them have.

    Like means: they share a relation. From a slot (h, r) go to another head of r, and from there to one
    of its relations; a pair that the graph holds in any snapshot, under any entity of the same label, is
    refused, and of what remains the less plausible half.

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
    wording = slots.wording(heads, relations)
    _, first = np.unique(wording, return_index=True)
    first = np.sort(first[~np.isin(wording[first], slots.wordings)])
    heads, relations = heads[first], relations[first]
    likely = plausibility(slots, pool, heads, relations)
    kept = likely >= np.median(likely) if len(likely) > wanted else likely >= 0
    heads, relations = heads[kept], relations[kept]
    picked = sample(relations, wanted, share, np.arange(len(relations)))
    return heads[picked], relations[picked]


def plausibility(slots: Slots, pool: Mask, heads: Ids, relations: Ids) -> NDArray[np.float64]:
    """Return how well each relation goes with what its head already has, in [0, 1].

    It is the least, over the head's relations r, of the share of heads with r that have the relation too:
    a diocese shares "country" with people, but its denomination with none, so it has no "place of birth".
    """
    own = np.flatnonzero(pool)
    own = own[np.argsort(slots.heads[own], kind="stable")]
    entities, starts, counts = np.unique(slots.heads[own], return_index=True, return_counts=True)
    held = slots.relations[own]
    size = len(slots.nouns)
    both = np.zeros((size, size))
    left, right = _within(starts, counts, np.repeat(np.arange(len(entities)), counts))
    np.add.at(both, (held[left], held[right]), 1)
    share = both / np.maximum(np.diag(both), 1)[:, None]
    candidate, slot = _within(starts, counts, np.searchsorted(entities, heads))
    least = np.ones(len(heads))
    np.minimum.at(least, candidate, share[held[slot], relations[candidate]])
    return least


def _within(starts: Ids, counts: Ids, groups: Ids) -> tuple[Ids, Ids]:
    """Return pairs: the position of each of `groups` with each position inside that group."""
    many = counts[groups]
    outer = np.repeat(np.arange(len(groups)), many)
    inner = np.arange(len(outer)) - np.repeat(np.cumsum(many) - many, many) + starts[groups][outer]
    return outer, inner


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
    """Return the first half of `front` with the second half of `back`, by words where one has several.

    >>> spliced("Marie Curie", "Albert Einstein")
    'Marie Einstein'
    >>> spliced("Lisbon", "Dresden")
    'Lisden'
    >>> spliced("Paris", "New York")
    'Paris York'
    """
    words, others = front.split(), back.split()
    if len(words) > 1 or len(others) > 1:
        return " ".join(words[: (len(words) + 1) // 2] + others[len(others) // 2 :])
    return front[: (len(front) + 1) // 2] + back[(len(back) + 1) // 2 :]
