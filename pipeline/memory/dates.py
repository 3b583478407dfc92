"""Dates of any precision ("2020", "2020-05", "2020-05-17"), and the periods between them."""

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import NamedTuple

DATE = re.compile(r"(-?[0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
BEFORE_ALL, AFTER_ALL = -1 << 40, 1 << 40
"""Days that an unknown start and an unknown end count as."""


@lru_cache(maxsize=1 << 16)
def day(text: str) -> int:
    """Return the first day of a date as a number; later days have larger ones, not always by one.

    Years are those of ISO 8601, four digits each: before 0001 comes 0000, then -0001.

    Raises:
        ValueError: it is no date; the text says what one looks like.
    """
    found = DATE.fullmatch(text)
    if found is not None:
        year, month, of_month = (int(part) if part else 1 for part in found.groups())
        leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if 1 <= month <= 12 and 1 <= of_month <= DAYS[month - 1] + leap:
            return (year * 12 + month - 1) * 31 + of_month - 1
    raise ValueError(f"{text[:40]!r} is no date; write YYYY, YYYY-MM or YYYY-MM-DD")


def full(text: str) -> str:
    """Return the first day of a date as text."""
    return f"{text}-01-01"[: 11 if text.startswith("-") else 10]


def close(text: str) -> str:
    """Return the first date behind a year, a month or a day.

    Raises:
        ValueError: it is no date.
    """
    number = day(text)
    year, month, of_month = number // 372, number // 31 % 12 + 1, number % 31 + 1
    parts = text.lstrip("-").count("-")
    if parts == 2:
        try:
            day(later := f"{_year(year)}-{month:02d}-{of_month + 1:02d}")
            return later
        except ValueError:
            parts = 1  # the first of the next month
    if parts == 1:
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return f"{_year(year)}-{month:02d}"
    return _year(year + 1)


def _year(number: int) -> str:
    return f"-{-number:04d}" if number < 0 else f"{number:04d}"


def today() -> str:
    """Return the date by the clock."""
    return date.today().isoformat()  # the user's own calendar, as the dates of facts are


class Period(NamedTuple):
    """A time that a fact holds for, who says so, and since when the memory knows."""

    start: str = ""
    """First date; empty where it is unknown."""
    end: str = ""
    """Date from which on it holds no longer; empty where it is unknown."""
    source: str = ""
    """Who says so; empty where that is unknown."""
    on: str = ""
    """Date of writing; empty for a fact of which nothing was recorded."""

    @property
    def first(self) -> int:
        """Day of the start, before all others where it is unknown."""
        return day(self.start) if self.start else BEFORE_ALL

    @property
    def last(self) -> int:
        """Day of the end, after all others where it is unknown."""
        return day(self.end) if self.end else AFTER_ALL

    @property
    def begins(self) -> bool:
        """Whether its start is known, and more than the day on which it was written."""
        return bool(self.start) and not (self.on and self.first == day(self.on))

    @property
    def plain(self) -> bool:
        """Whether it says no more than that the fact holds."""
        return not (self.start or self.end or self.source)

    def checked(self) -> "Period":
        """Return it.

        Raises:
            ValueError: a bound is no date, or it doesn't end after it starts.
        """
        if self.last <= self.first:
            raise ValueError(
                f"the end {self.end!r} is not after the start {self.start!r}, each the first day of what it "
                "names; correct them, or name the day"
            )
        return self

    def covers(self, at: int) -> bool:
        """Return whether `at` lies in it."""
        return self.first <= at < self.last

    def overlaps(self, other: "Period") -> bool:
        """Return whether they share a day."""
        return self.first < other.last and other.first < self.last

    def minus(self, other: "Period", now: int) -> list["Period"]:
        """Return what is left of it without `other`; from `now` an unknown start reaches back no further."""
        if not self.overlaps(other):
            return [self]
        before = [self._replace(end=other.start)] if self.first < other.first else []
        behind = [self._replace(start=other.end)] if other.last < self.last else []
        return behind if behind and not self.start and other.last <= now else before + behind

    def common(self, other: "Period") -> "Period":
        """Return the part of it that `other`, which overlaps it, covers too."""
        start = self.start if self.first >= other.first else other.start
        end = self.end if self.last <= other.last else other.end
        return self._replace(start=start, end=end)

    def __str__(self) -> str:
        return f"{self.start or '…'} to {self.end or '…'}"


Periods = Sequence[Period]
"""Those of one fact, in their order; they don't overlap."""
