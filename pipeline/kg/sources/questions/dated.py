"""Builds snapshots from slots that are told again at later dates."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.kg.sources import Triple
from pipeline.kg.sources.questions import Slot

Told = Mapping[Slot, frozenset[str]]
"""The tails of each slot that a date tells of."""


def snapshots(dates: Iterable[tuple[str, Told]], source: str) -> list[tuple[str, Sequence[Triple]]]:
    """Return a snapshot a date: a slot keeps its tails until a later date tells others.

    That a date says nothing of a slot tells nothing of its facts, so they stay.
    """
    tails: dict[Slot, frozenset[str]] = {}
    result: list[tuple[str, Sequence[Triple]]] = []
    for name, told in dates:
        tails |= told
        facts = [
            Triple(head, relation, tail, source=source)
            for (head, relation), known in sorted(tails.items())
            for tail in sorted(known)
        ]
        result.append((name, facts))
    return result
