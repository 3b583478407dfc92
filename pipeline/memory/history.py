"""What a memory has held: a slot's values over time, and every fact with every period."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.memory.dates import Period, today
from pipeline.memory.facts import Fact, Key
from pipeline.memory.store import KnowledgeMemory

BLOCK = 4096
"""Facts that are looked up at once."""


class Stretch(NamedTuple):
    """A value of a slot and one time that it holds for."""

    row: int
    """Id of the fact."""
    period: Period
    by: tuple[int, ...]
    """Ids of the facts of the slot that begin on the day that this one ends: what superseded it."""


def history(memory: KnowledgeMemory, head: str, relation: str) -> list[Stretch]:
    """Return the values of a slot, earliest start first; those that hold at all times come first.

    A memory doesn't record what gave way to what, only when; facts that were deleted are not in it.

    Args:
        memory: to be looked up; a view of a date doesn't know the rest.
        head: stable key of the slot's head.
        relation: stable key of its relation.
    """
    with memory.still():
        keys = memory.recorded(head, relation)
        rows = {key: row for key in keys if (row := memory.known(key)) is not None}
        told = [(rows[key], period) for key in rows for period in memory.periods(key)]
    told.sort(key=lambda one: (one[1].first, one[1].last, one[0]))
    return [Stretch(row, period, _after(row, period, told)) for row, period in told]


def _after(row: int, period: Period, told: list[tuple[int, Period]]) -> tuple[int, ...]:
    if not period.end:
        return ()
    return tuple(other for other, later in told if other != row and later.first == period.last)


def everything(memory: KnowledgeMemory) -> Iterator[Fact]:
    """Yield every fact of a memory as it is when this is begun, once for each of its periods.

    Written to a new memory without `replace`, they make it hold the same at every date.
    """
    view = memory.as_of(memory.chronicle.on or today())
    chronicle = view.chronicle
    for key in view.keys_held(BLOCK):
        row = view.known(key)
        if row is None or row not in chronicle:
            yield Fact(*key, *view.named(key))
    for row in chronicle.rows:
        key = view.key(row)
        for period in chronicle.of(row):
            yield Fact(*key, *view.named(key), period.start, period.end, period.source)


def slot_state(memory: KnowledgeMemory, head: str, relation: str) -> list[tuple[Key, tuple[Period, ...]]]:
    """Return what is recorded of a slot: equal as long as it isn't changed, also after a restart."""
    with memory.still():
        keys = memory.recorded(head, relation)
        return sorted((key, tuple(memory.periods(key))) for key in keys)
