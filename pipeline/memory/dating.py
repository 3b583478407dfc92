"""What a change comes to on its date: conflicts are resolved, and facts begin and end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import UserError
from pipeline.memory.changes import Change
from pipeline.memory.conflicts import Outcome, Record
from pipeline.memory.dates import Periods, day, full, today
from pipeline.memory.facts import Fact, Key
from pipeline.memory.held import HeldFacts


def date_of(given: str, memory: HeldFacts) -> str:
    """Return the date of a change of a memory; see `date_after`."""
    return date_after(given, memory.chronicle.on)


def date_after(given: str, held: str) -> str:
    """Return the date of a change, to the day.

    Args:
        given: as it was asked for; empty for today by the clock, or the memory's date if that is later.
        held: date that the memory stands at; empty where nothing in it is dated.

    Raises:
        UserError: it is no date, or before the memory's.
    """
    if not given:
        return max(today(), held, key=day) if held else today()
    on = written(given)
    if held and day(on) < day(held):
        raise UserError(
            f"the date {given}: the memory stands at {held} already, and time goes on; say by a fact's own "
            "start and end when it held"
        )
    return on


def written(date: str) -> str:
    """Return the first day of a date as it is written.

    Raises:
        UserError: it is none.
    """
    try:
        day(date)
    except ValueError as error:
        raise UserError(f"the date {error}") from error
    return full(date)


@dataclass(frozen=True)
class Settled:
    """A change whose conflicts are resolved."""

    change: Change
    outcome: Outcome
    begun: list[Key]
    """Facts whose date has come."""
    ended: list[Key]
    """Facts whose end has come."""


def rivals(facts: Sequence[Fact], memory: HeldFacts) -> dict[Key, list[Key]]:
    """Return the facts that each of `facts` is to supersede, where there are any: the others of its slot."""
    beside = {fact.key for fact in facts}
    found: dict[Key, list[Key]] = {}
    for fact in facts:
        if others := [key for key in memory.recorded(fact.head, fact.relation) if key not in beside]:
            found[fact.key] = others
    return found


def settled(
    change: Change, facts: Sequence[Fact], against: Mapping[Key, Sequence[Key]], on: str, memory: HeldFacts
) -> Settled:
    """Return what a change comes to.

    Args:
        change: new names, and facts that are removed.
        facts: those that are written.
        against: facts that some of them are to supersede.
        on: date of the change.
        memory: what is changed.

    Raises:
        UserError: a date of a fact is none, or its end is not after its start.
    """
    record = Record(memory.periods, memory.settings.sources, on)
    outcome = record.outcome
    came: list[Key] = []
    new = {fact.key for fact in facts if fact.dated}
    for fact in facts:
        if fact.key in against or fact.key in new or memory.dated(fact.key):
            record.write(fact.key, fact.period(on), against.get(fact.key, ()))
        else:
            came.append(fact.key)
    went = list(change.removed)
    periods: dict[Key, Periods] = {key: () for key in went if memory.dated(key)}
    touched = set(change.removed)
    for key, its in outcome.periods.items():
        if tuple(its) == tuple(memory.periods(key)):
            continue
        touched.add(key)
        holds = any(period.covers(day(on)) for period in its)
        if holds or memory.find(*key) is not None:
            (came if holds else went).append(key)
        if not (len(its) == 1 and its[0].plain):
            periods[key] = its
        elif memory.dated(key):
            periods[key] = ()
    turned = memory.chronicle.turning(day(on))
    ended, begun = ([key for key in map(memory.key, rows) if key not in touched] for rows in turned)
    dated = bool(periods) or len(memory.chronicle) > 0
    made = Change([*came, *begun], [*went, *ended], change.new, periods, on if dated else "")
    return Settled(made, outcome, begun, ended)
