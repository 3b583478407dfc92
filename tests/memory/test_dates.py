"""Dates of any precision and the periods between them."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.memory.dates import Period, close, day, full
from pipeline.memory.facts import Fact

DATES = st.dates(date(1, 1, 1), date(9999, 12, 31))
BOUNDS = st.sampled_from(["", "2019", "2020", "2020-02", "2020-02-29", "2021"])


@given(one=DATES, other=DATES)
def test_days_are_ordered_as_the_calendar_has_them(one: date, other: date) -> None:
    assert (day(one.isoformat()) < day(other.isoformat())) == (one < other)


@given(one=DATES)
def test_a_day_a_month_and_a_year_close_where_the_next_begins(one: date) -> None:
    if one.year < 9999:
        month = date(one.year + one.month // 12, one.month % 12 + 1, 1).isoformat()
        assert day(close(one.isoformat())) == day((one + timedelta(days=1)).isoformat())
        assert close(one.isoformat()[:7]) == month[:7]
        assert close(one.isoformat()[:4]) == f"{one.year + 1:04d}"
    assert [close(text) for text in ("-0044", "-0001", "-0001-12")] == ["-0043", "0000", "0000-01"]


def test_a_year_and_a_month_stand_for_their_first_day() -> None:
    assert day("2020") == day("2020-01") == day("2020-01-01") < day("2020-01-02")
    assert day("-0044-03-15") < day("-0043") < day("0000") < day("0001")
    assert [full(text) for text in ("2020", "2020-05", "-0044")] == [
        "2020-01-01",
        "2020-05-01",
        "-0044-01-01",
    ]


@pytest.mark.parametrize(
    "text", ["", "20", "2020-13", "2021-02-29", "1900-02-29", "2020-1-1", "2020-01-01T00", "x"]
)
def test_what_is_no_date_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no date; write YYYY, YYYY-MM or YYYY-MM-DD"):
        day(text)


@pytest.mark.parametrize(("start", "end"), [("2021", "2020"), ("2020", "2020-01-01"), ("2020-02", "2020")])
def test_an_end_that_is_not_after_the_start_names_fact_and_remedy(start: str, end: str) -> None:
    fact = Fact("Q1", "P6", "Q2", start=start, end=end)
    with pytest.raises(
        UserError, match=rf"fact 'Q1 \| P6 \| Q2': the end '{end}' is not after .* correct them"
    ):
        fact.period("2024-01-01")


@given(
    one=st.tuples(BOUNDS, BOUNDS), other=st.tuples(BOUNDS, BOUNDS), at=st.sampled_from(["2019", "2020-02-15"])
)
def test_what_is_left_of_a_period_and_what_is_taken_are_the_whole(
    one: tuple[str, str], other: tuple[str, str], at: str
) -> None:
    mine, theirs = Period(*one), Period(*other)
    if mine.last <= mine.first or theirs.last <= theirs.first:
        return
    left = mine.minus(theirs, day("1000"))
    shared = mine.common(theirs) if mine.overlaps(theirs) else None
    covering = [*left, *([shared] if shared else [])]
    assert sum(period.covers(day(at)) for period in covering) == mine.covers(day(at))
    assert not any(period.overlaps(theirs) for period in left)


def test_an_unknown_start_reaches_back_no_further_than_to_the_last_time_that_others_took() -> None:
    assert Period().minus(Period("2010", "2015"), day("2020")) == [Period(start="2015")]
    assert Period().minus(Period("2010", "2015"), day("2012")) == [Period(end="2010"), Period(start="2015")]
