"""Questions over two facts: the only answer to one slot is the head of another."""

import numpy as np

from pipeline.kg.facts import Ids
from pipeline.kg.slots import Mask, Slots, sample


def chains(
    slots: Slots,
    first: Mask,
    second: Mask,
    live: Mask,
    wanted: int,
    share: float,
    random: np.random.Generator,
) -> tuple[Ids, Ids]:
    """Return pairs of slots, the second about the answer to the first.

    A first slot has one answer, so that there is no doubt what is asked about. The answer that a question
    begins with is no answer to it: the capital of the country of Paris is not asked for.

    Args:
        slots: all slots.
        first: which may be the first of a pair: [S].
        second: which may be the second: [S].
        live: the facts that count: [M].
        wanted: pairs at most.
        share: the largest part of them that two relations in a row may have.
        random: the source of chance.
    """
    none = np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(first & (slots.count(live) == 1))
    tails = np.array([slots.graph.triples[slots.facts(int(slot), live)[0], 2] for slot in starts], np.int64)
    seconds = np.flatnonzero(second)  # sorted by head, as all slots are
    left = np.searchsorted(slots.heads[seconds], tails, side="left")
    right = np.searchsorted(slots.heads[seconds], tails, side="right")
    going = np.flatnonzero(right > left)
    if not len(going) or not wanted:
        return none, none
    starts, chosen = starts[going], seconds[random.integers(left[going], right[going])]
    back = [
        head in slots.graph.triples[slots.facts(int(slot), live), 2]
        for head, slot in zip(slots.heads[starts], chosen, strict=True)
    ]
    starts, chosen = starts[~np.array(back)], chosen[~np.array(back)]
    pairs = slots.relations[starts] * len(slots.nouns) + slots.relations[chosen]
    picked = sample(pairs, wanted, share, random.permutation(len(pairs)))
    return starts[picked], chosen[picked]
