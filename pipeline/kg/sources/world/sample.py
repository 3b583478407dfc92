"""Takes a small graph out of a large one, by head entity."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.kg.sources import Extract, Triple
from pipeline.kg.splits import Splits, rank


def sample(extract: Extract, heads: int, updated: int, added: int, splits: Splits, seed: int) -> Extract:
    """Return the facts of `heads` head entities, and of some more of fold test that changed.

    Kinds of heads (the part of the key before the colon) have equal shares of `heads`, and what a small
    kind leaves over is shared among the others; within a kind, heads are taken by a hash of their key. A
    relation that would be lost keeps its first head by that hash. Real changes are too rare to be met by
    chance in a small sample, so further heads of fold test come in, the first by the same hash: `updated` of
    those with a slot that the last snapshot answers otherwise than the first, and `added` of those with none
    such and a slot that only the last one answers. Nothing else is looked at.
    """
    order: dict[str, float] = {}
    kinds: dict[str, list[str]] = defaultdict(list)
    owners: dict[str, str] = {}
    for _, triples in extract.snapshots:
        for triple in triples:
            if triple.head not in order:
                order[triple.head] = rank(triple.head, seed, "sample")
                kinds[triple.head.split(":")[0]].append(triple.head)
            owner = owners.setdefault(triple.relation, triple.head)
            if (order[triple.head], triple.head) < (order[owner], owner):
                owners[triple.relation] = triple.head

    def first(keys: list[str], number: int) -> list[str]:
        return sorted(keys, key=lambda key: (order[key], key))[:number]

    share = shares({kind: len(keys) for kind, keys in kinds.items()}, heads)
    kept = {key for kind, keys in kinds.items() for key in first(keys, share[kind])}
    moves = _changed(extract.snapshots[0][1], extract.snapshots[-1][1])
    for moved, number in zip(moves, (updated, added), strict=True):
        kept.update(first([key for key in moved if splits.fold_of(key, seed) == "test"], number))
    present = {t.relation for _, triples in extract.snapshots for t in triples if t.head in kept}
    kept.update(owner for relation, owner in owners.items() if relation not in present)
    snapshots = [(name, [t for t in triples if t.head in kept]) for name, triples in extract.snapshots]
    return replace(extract, snapshots=snapshots)


def shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Return how many of each kind to take: equal shares of `total`, none above its size."""
    taken: dict[str, int] = {}
    left = total
    for place, kind in enumerate(sorted(sizes, key=lambda kind: (sizes[kind], kind))):
        taken[kind] = min(sizes[kind], left // (len(sizes) - place))
        left -= taken[kind]
    return taken


def _changed(before: Sequence[Triple], after: Sequence[Triple]) -> tuple[set[str], set[str]]:
    """Return the heads with a slot that both fill, but otherwise, and those with one only `after` fills.

    A head that is in both groups is given in the first only.
    """
    old, new = ({(t.head, t.relation, t.tail) for t in triples} for triples in (before, after))
    was, now = ({(head, relation) for head, relation, _ in facts} for facts in (old, new))
    both = was & now
    updated = {head for head, relation, _ in old ^ new if (head, relation) in both}
    return updated, {head for head, _ in now - was} - updated
