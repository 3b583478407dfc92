"""When facts hold, day by day: a reference for memories with dates.

Days are 0 to `LAST`, in which 0 stands for all the time before and `LAST` for all the time after. A period is
a set of days in a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.memory.dates import Period, full
from pipeline.memory.facts import Fact, Key
from tests.memory.small import fact

LAST = 12
EVER = frozenset(range(LAST + 1))


def date(day: int) -> str:
    """Return a day as a date; all of one precision would be too easy."""
    month, of_month = 1 + (day - 1) // 3, 1 + 10 * ((day - 1) % 3)
    return "2020" if day == 1 else f"2020-{month:02d}" + (f"-{of_month:02d}" if of_month > 1 else "")


@dataclass(frozen=True)
class Claim:
    """A fact as it is written: from `start` to before `end`, 0 where they are unknown."""

    key: Key
    start: int = 0
    end: int = 0
    source: str = ""

    @property
    def days(self) -> frozenset[int]:
        return frozenset(range(self.start, self.end or LAST + 1))

    def fact(self) -> Fact:
        dates = [date(day) if day else "" for day in (self.start, self.end)]
        return replace(fact(self.key), start=dates[0], end=dates[1], source=self.source)


@dataclass(frozen=True)
class Known:
    """A period of a fact."""

    days: frozenset[int]
    source: str
    on: int
    """Day of writing."""

    @property
    def first(self) -> int:
        return min(self.days)

    @property
    def last(self) -> int:
        return max(self.days)

    def split(self, days: Iterable[int]) -> list["Known"]:
        """Return the rows of days that are in `days`."""
        rows: list[set[int]] = []
        for day in sorted(days):
            if rows and day - 1 in rows[-1]:
                rows[-1].add(day)
            else:
                rows.append({day})
        return [replace(self, days=frozenset(row)) for row in rows]

    def without(self, days: frozenset[int], now: int) -> list["Known"]:
        left = self.days - days
        if days & self.days and 0 in left and max(days) < now and any(day > max(days) for day in left):
            left = {day for day in left if day > max(days)}
        return self.split(left)


class Reference:
    """What a memory with dates must hold.

    Args:
        sources: names, best first.
    """

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources
        self.facts: dict[Key, list[Known]] = {}
        self.now = 1

    def rank(self, source: str) -> int:
        return self.sources.index(source) if source in self.sources else len(self.sources)

    def held(self, day: int) -> set[Key]:
        return {key for key, known in self.facts.items() if any(day in period.days for period in known)}

    def periods(self, key: Key) -> list[tuple[str, str, str]]:
        return [
            (
                full(date(period.first)) if period.first else "",
                full(date(period.last + 1)) if period.last < LAST else "",
                period.source,
            )
            for period in self.facts.get(key, [])
        ]

    def delete(self, keys: Iterable[Key]) -> None:
        for key in keys:
            del self.facts[key]

    def upsert(self, claims: list[Claim], supersede: bool) -> None:
        together = {claim.key for claim in claims}
        for claim in claims:
            self._write(claim, together, supersede)

    def _write(self, claim: Claim, together: set[Key], supersede: bool) -> None:
        own = self.facts.get(claim.key, [])
        placed, others, known = self._placed(claim, own)
        kept = [placed]
        if supersede:
            rivals = {
                key: periods
                for key, periods in self.facts.items()
                if key[:2] == claim.key[:2] and key not in together
            }
            wanted = placed
            covered = any(self.now in period.days for periods in rivals.values() for period in periods)
            if not claim.start and self.now in placed.days and covered:
                wanted = replace(placed, days=frozenset(day for day in placed.days if day >= self.now))
            kept = [placed if known else wanted]
            periods = [period for periods in rivals.values() for period in periods]
            gained = [wanted]
            for period in sorted(periods, key=lambda period: -period.last):
                if period.days & wanted.days and not self._gives_way(period, wanted, claim):
                    common = period.days & wanted.days
                    kept = [part for piece in kept for part in piece.without(common, self.now)]
                    gained = [part for piece in gained for part in piece.without(period.days, self.now)]
            for key, periods in rivals.items():
                for piece in sorted(gained, key=lambda piece: -piece.last):
                    periods = [part for period in periods for part in period.without(piece.days, self.now)]
                self._keep(key, periods)
        self._keep(claim.key, [*others, *kept])

    def _keep(self, key: Key, periods: list[Known]) -> None:
        self.facts[key] = sorted(periods, key=lambda period: period.first)
        if not periods:
            del self.facts[key]

    def _placed(self, claim: Claim, own: list[Known]) -> tuple[Known, list[Known], bool]:
        days, again = claim.days, False
        if not claim.start and own:
            at = self.now if self.now in days else max(days)
            about = [period for period in own if at in period.days]
            ended = [period for period in own if period.last < at]
            start = 0
            if about:
                start = about[0].first
            elif self.now in days:
                start = self.now
                if ended and ended[-1].last == self.now - 1 and ended[-1].source == claim.source:
                    again, start = True, ended[-1].first
                    own = [period for period in own if period is not ended[-1]]
            elif ended:
                start = ended[-1].last + 1
            days = frozenset(range(start, claim.end or LAST + 1))
        met = [period for period in own if period.days & days]
        if met and not claim.end:
            days = frozenset(day for day in days if day <= met[0].last)
            met = [period for period in own if period.days & days]
        if not met:
            return Known(days, claim.source, self.now), own, again
        best = min(met, key=lambda period: self.rank(period.source))
        same = best.days == days and claim.source in ("", best.source)
        if same or self.rank(best.source) < self.rank(claim.source):
            return best, [period for period in own if period is not best], True
        return Known(days, claim.source, self.now), [period for period in own if period not in met], True

    def _gives_way(self, held: Known, wanted: Known, claim: Claim) -> bool:
        if surer(wanted, held, claim.start > 0):
            return True
        if surer(held, wanted, held.first != held.on):
            return False
        return self.rank(wanted.source) <= self.rank(held.source)


def surer(one: Known, other: Known, begins: bool) -> bool:
    """Return whether `one` has a start or an end where `other` goes on for lack of one."""
    return (begins and LAST in other.days and other.first < one.first) or (
        0 in other.days and one.last < other.last
    )


def as_known(periods: Iterable[Period]) -> list[tuple[str, str, str]]:
    """Return periods as `Reference.periods` does, to the day: bounds may come from the dates of changes."""
    return [
        (full(start) if start else "", full(end) if end else "", source) for start, end, source, _ in periods
    ]
