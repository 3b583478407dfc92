"""Which of several facts of one slot holds when: what is written meets what is on record.

Two periods of different facts conflict where they overlap. That time goes to

1. the one that is certain of it: an unknown end gives way to a later start, an unknown start to an earlier
   end (a start that a fact has from the day of its writing alone is not certain);
2. else the one of the better source;
3. else the one that is written now.

The other one keeps what is left of its period.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.memory.dates import Period, Periods, day
from pipeline.memory.facts import Key


class Loss(NamedTuple):
    """Why a fact that was written doesn't hold for all of the time that it was written for."""

    winner: Key
    why: str


@dataclass
class Outcome:
    """What becomes of the facts that a change concerns."""

    periods: dict[Key, Periods] = field(default_factory=dict)
    """Of each fact that was written or gave way; none where nothing is left."""
    superseded: list[Key] = field(default_factory=list)
    """Facts that gave way."""
    lost: dict[Key, Loss] = field(default_factory=dict)
    """Facts that were written and gave way."""


class Record:
    """What a memory knows of the periods of its facts.

    Args:
        periods: of a fact; none where it isn't known.
        sources: names, best first; others rank alike, below.
        on: date of the change.
    """

    def __init__(
        self,
        periods: Callable[[Key], Periods],
        sources: Sequence[str],
        on: str,
    ) -> None:
        self._known = periods
        self._ranks: Mapping[str, int] = {name: place for place, name in enumerate(sources)}
        self._on = on
        self._day = day(on)
        self.outcome = Outcome()

    def _of(self, key: Key) -> Periods:
        found = self.outcome.periods.get(key)
        return self._known(key) if found is None else found

    def rank(self, source: str) -> int:
        """Return the place of a source among all, from 0 for the best."""
        return self._ranks.get(source, len(self._ranks))

    def write(self, key: Key, claimed: Period, against: Sequence[Key]) -> None:
        """Take in that a fact holds for a period.

        Args:
            key: the fact.
            claimed: as it was given.
            against: known facts that may not hold at the same time.
        """
        claim, others, known = self._placed(claimed, self._of(key))
        if any(given and given != taken for given, taken in zip(claimed[:2], claim[:2], strict=True)):
            self.outcome.lost[key] = Loss(key, self._trusted(claim, claimed))
        elif claimed.covers(self._day) and not claim.covers(self._day):
            self.outcome.lost[key] = Loss(key, f"on record from {claim}; delete it to write it anew")
        kept = [claim]
        if against:
            rivals = {rival: self._of(rival) for rival in against}
            wanted = self._wanted(claimed, claim, rivals)
            kept = self._contest(key, claim if known else wanted, wanted, bool(claimed.start), rivals)
        self.outcome.periods[key] = sorted([*others, *kept], key=lambda period: period.first)

    def _placed(self, claimed: Period, own: Periods) -> tuple[Period, list[Period], bool]:
        """Return the period that a claim comes to beside a fact's own.

        A claim corrects the periods that it overlaps, unless they are of a better source. An unknown bound
        leaves what is known; a fact that comes back with an unknown start does so on the day of writing.

        Returns:
            The period, the fact's own that stay beside it, and whether it stands for one of those.
        """
        claim, again = claimed, False
        if not claim.start and own:
            now = self._day < claim.last
            at = self._day if now else claim.last - 1
            about = [period for period in own if period.covers(at)]
            ended = [period for period in own if period.last <= at]
            if about:
                claim = claim._replace(start=about[0].start)
            elif now and ended and ended[-1].last == self._day and ended[-1].source == claim.source:
                claim, again = ended[-1]._replace(end=claim.end), True  # it went on this very day
                own = [period for period in own if period is not ended[-1]]
            elif now:
                claim = claim._replace(start=self._on)
            elif ended:
                claim = claim._replace(start=ended[-1].end)
        met = [period for period in own if period.overlaps(claim)]
        if met and not claim.end:
            claim = claim._replace(end=met[0].end)
            met = [period for period in met if period.overlaps(claim)]
        if not met:
            return claim, list(own), again
        best = min(met, key=lambda period: self.rank(period.source))
        same = claim[:2] == best[:2] and claim.source in ("", best.source)
        if same or self.rank(best.source) < self.rank(claim.source):
            return best, [period for period in own if period is not best], True
        return claim, [period for period in own if period not in met], True

    def _wanted(self, claimed: Period, claim: Period, rivals: Mapping[Key, Periods]) -> Period:
        """Return the part of a claim that it may take from others: from now on where its start is unknown."""
        now = not claimed.start and claim.covers(self._day) and claim.first < self._day
        held = any(period.covers(self._day) for periods in rivals.values() for period in periods)
        return claim._replace(start=self._on) if now and held else claim

    def _contest(
        self, key: Key, claim: Period, wanted: Period, stated: bool, rivals: Mapping[Key, Periods]
    ) -> list[Period]:
        """Cut the rivals by what a fact gets of the part `wanted` of its claim; return what it has then.

        `stated` says whether the claim came with a start.
        """
        kept, gained = [claim], [wanted]
        for rival, period in _latest_first(rivals):
            if period.overlaps(wanted) and (why := self._against(period, wanted, stated)):
                if claim.start or period.last > self._day:  # an unknown start claims nothing of the past
                    self.outcome.lost[key] = Loss(rival, why)
                kept = [part for piece in kept for part in piece.minus(wanted.common(period), self._day)]
                gained = [part for piece in gained for part in piece.minus(period, self._day)]
        for rival, periods in rivals.items():
            left = list(periods)
            for piece in reversed(gained):
                left = [part for period in left for part in period.minus(piece, self._day)]
            if left != list(periods):
                self.outcome.periods[rival] = left
                if rival not in self.outcome.superseded:
                    self.outcome.superseded.append(rival)
        return kept

    def _against(self, held: Period, claim: Period, stated: bool) -> str:
        """Return why a period on record stands against one that is written; nothing where it gives way."""
        if _certain(claim, held, stated):
            return ""
        if _certain(held, claim, held.begins):
            unknown = "start" if claim.end else "end"
            return f"dated {held}, while the {unknown} of what was written is unknown"
        return self._trusted(held, claim) if self.rank(held.source) < self.rank(claim.source) else ""

    def _trusted(self, held: Period, claim: Period) -> str:
        return f"of the source {held.source!r}, which memory.sources ranks above {claim.source!r}"


def _certain(one: Period, other: Period, stated: bool) -> bool:
    """Return whether `one` has a bound where `other` has none; `stated` says whether one's start counts."""
    later = stated and not other.end and other.first < one.first
    earlier = not other.start and one.last < other.last
    return later or earlier


def _latest_first(rivals: Mapping[Key, Periods]) -> Iterator[tuple[Key, Period]]:
    """Yield periods, those that end last first: an unknown start reaches back no further than to these."""
    pairs = [(rival, period) for rival, periods in rivals.items() for period in periods]
    yield from sorted(pairs, key=lambda pair: pair[1].last, reverse=True)
