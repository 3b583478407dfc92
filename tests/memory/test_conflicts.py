"""Facts of one slot that can't both be right: validity, then provenance, then recency."""

from dataclasses import replace

import pytest

from pipeline.config import UserError
from pipeline.memory.store import KnowledgeMemory
from tests.memory.killed import Drawn
from tests.memory.small import fact
from tests.tiny import memory_settings

PARIS, LYON, EURO = (("Q0", "P0", tail) for tail in ("Q2", "Q3", "Q5"))
TRUSTED, OTHER = "register", "news"


def empty(layout: str = "factored") -> KnowledgeMemory:
    return KnowledgeMemory(memory_settings(layout=layout, entities=100, sources=[TRUSTED]), Drawn())


def write(
    memory: KnowledgeMemory,
    key: tuple[str, str, str],
    on: str,
    start: str = "",
    end: str = "",
    source: str = "",
) -> str:
    """Write a fact over the others of its slot; return what the receipt says against it."""
    given = replace(fact(key), start=start, end=end, source=source)
    receipt = memory.upsert([given], replace=True, on=on)
    return receipt.lost.get(receipt.facts[0], "")


def held(memory: KnowledgeMemory, date: str = "") -> list[tuple[str, str, str]]:
    past = memory.as_of(date) if date else memory
    return [key for key in (PARIS, LYON, EURO) if past.find(*key) is not None]


def test_validity_comes_before_the_source() -> None:
    """Who is trusted less, but says since when, is believed against an end that is unknown."""
    memory = empty()
    write(memory, PARIS, "2022", start="2010", source=TRUSTED)
    assert not write(memory, LYON, "2022", start="2020", source=OTHER)
    assert held(memory) == [LYON]
    assert held(memory, "2019-12-31") == [PARIS]
    again = write(memory, PARIS, "2023", start="2010", source=TRUSTED)
    assert again.endswith("Paris. It is on record from 2010 to 2020; delete it to write it anew.")
    third = write(memory, EURO, "2023", start="2015", source=TRUSTED)
    assert third.endswith("Lyon. It is dated 2020 to …, while the end of what was written is unknown.")
    assert held(memory) == [LYON]
    assert [period[:3] for period in memory.periods(PARIS)] == [("2010", "2015", TRUSTED)]


def test_the_source_comes_before_recency() -> None:
    memory = empty()
    write(memory, PARIS, "2022", start="2010", end="2030", source=TRUSTED)
    why = write(memory, LYON, "2023", start="2015", end="2040", source=OTHER)
    assert why.endswith("Paris. It is of the source 'register', which memory.sources ranks above 'news'.")
    assert held(memory) == [PARIS]
    assert held(memory, "2031") == [LYON]


def test_undated_news_do_not_supersede_a_better_source() -> None:
    memory = empty()
    write(memory, PARIS, "2022", source=TRUSTED)
    assert "'register', which memory.sources ranks above 'news'" in write(memory, LYON, "2023", source=OTHER)
    assert held(memory) == [PARIS]
    assert not write(memory, EURO, "2024", source=TRUSTED)
    assert held(memory) == [EURO]


def test_a_start_that_is_but_the_day_of_writing_gives_way_to_a_better_source() -> None:
    memory = empty()
    write(memory, PARIS, "2022")
    write(memory, LYON, "2023", source=OTHER)
    assert not write(memory, EURO, "2024", start="2021", source=TRUSTED)
    assert held(memory) == [EURO]


@pytest.mark.parametrize("source", ["", TRUSTED, OTHER])
def test_recency_comes_last(source: str) -> None:
    memory = empty()
    write(memory, PARIS, "2022", start="2010", end="2030", source=source)
    assert not write(memory, LYON, "2023", start="2015", end="2025", source=source)
    assert held(memory) == [LYON]
    assert [held(memory, date) for date in ("2014", "2015", "2024", "2025")] == [
        [PARIS],
        [LYON],
        [LYON],
        [PARIS],
    ]


def test_a_fact_again_by_another_source_keeps_one_period_and_the_better_source() -> None:
    memory = empty()
    for source in (OTHER, TRUSTED, OTHER, ""):
        write(memory, PARIS, "2022", start="2010", source=source)
    assert [period[:3] for period in memory.periods(PARIS)] == [("2010", "", TRUSTED)]
    assert len(memory) == 1


def test_dated_and_undated_facts_stand_side_by_side_where_none_replaces() -> None:
    memory = empty()
    memory.upsert([fact(PARIS), replace(fact(LYON), start="2020", end="2022")], on="2021")
    assert held(memory) == [PARIS, LYON]
    assert held(memory, "2019") == held(memory, "2022") == [PARIS]


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_a_refused_date_changes_nothing(layout: str) -> None:
    memory = empty(layout)
    write(memory, PARIS, "2022", start="2010")
    before = memory.periods(PARIS), memory.chronicle.on, len(memory.entities)
    bad = {
        r"Q0 \| P0 \| Q3': the end '2020' is not after the start '2021'": {"start": "2021", "end": "2020"},
        r"Q0 \| P0 \| Q3': 'soon' is no date; write YYYY": {"start": "soon"},
    }
    for text, dates in bad.items():
        with pytest.raises(UserError, match=text):
            memory.upsert([fact(EURO), replace(fact(LYON), **dates)], replace=True, on="2023")
    with pytest.raises(UserError, match=r"the date 2021: the memory stands at 2022-01-01 already"):
        memory.upsert([fact(LYON)], on="2021")
    with pytest.raises(UserError, match=r"the date 'soon' is no date"):
        memory.delete([PARIS], on="soon")
    assert before == (memory.periods(PARIS), memory.chronicle.on, len(memory.entities))
