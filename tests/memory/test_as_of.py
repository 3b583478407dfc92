"""What held on a date: views of a memory's past and future, and time that goes on."""

from dataclasses import replace

import pytest

from pipeline.config import UserError
from pipeline.memory.store import KnowledgeMemory
from tests.memory.killed import Drawn
from tests.memory.small import ask, fact, held
from tests.tiny import memory_settings

PARIS, LYON, EURO = ("Q0", "P0", "Q2"), ("Q0", "P0", "Q3"), ("Q1", "P1", "Q5")


@pytest.fixture(params=["factored", "slot"])
def memory(request: pytest.FixtureRequest) -> KnowledgeMemory:
    memory = KnowledgeMemory(memory_settings(layout=request.param, entities=100, N=20), Drawn())
    memory.upsert([fact(PARIS), fact(EURO)], on="2020")
    memory.upsert([replace(fact(LYON), start="2021-05")], replace=True, on="2021-06")
    return memory


def found(memory: KnowledgeMemory) -> set[tuple[str, str, str]]:
    rows = memory.search(ask(Drawn(), 1)).facts[0].tolist()
    return {memory.key(row) for row in rows if row >= 0}


@pytest.mark.parametrize(
    ("date", "capital"),
    [
        ("1066", PARIS),
        ("2021-04-30", PARIS),
        ("2021-05", LYON),
        ("2021-05-01", LYON),
        ("2021-06", LYON),
        ("2050", LYON),
    ],
)
def test_a_view_holds_what_held_before_at_and_after_a_change(
    memory: KnowledgeMemory, date: str, capital: tuple[str, str, str]
) -> None:
    past = memory.as_of(date)
    assert held(past) == found(past) == {capital, EURO}
    assert past.fact(past.slot(past.entities.row("Q0"), past.relations.row("P0"))[0]).key == capital
    assert held(memory) == found(memory) == {LYON, EURO}


def test_a_view_stays_and_takes_no_change(memory: KnowledgeMemory) -> None:
    past = memory.as_of("2021")
    memory.delete([EURO])
    memory.upsert([fact(("Q4", "P2", "Q5"))])
    assert held(past) == found(past) == {PARIS, EURO}
    assert held(memory.as_of("2021")) == {PARIS, ("Q4", "P2", "Q5")}, "what is deleted was never so"
    for change in (
        lambda: past.upsert([fact(EURO)]),
        lambda: past.delete([PARIS]),
        lambda: past.advance("2050"),
    ):
        with pytest.raises(UserError, match=r"what held as of 2021-01-01 can't be changed"):
            change()
    with pytest.raises(UserError, match=r"the date '21' is no date"):
        memory.as_of("21")


def test_facts_begin_and_end_as_time_goes_on(memory: KnowledgeMemory) -> None:
    memory.upsert([replace(fact(("Q2", "P2", "Q4")), start="2030", end="2031")], on="2029")
    assert held(memory) == {LYON, EURO}
    begun = memory.advance("2030-01-01")
    assert [memory.key(row) for row in begun.begun] == [("Q2", "P2", "Q4")]
    assert held(memory) == {LYON, EURO, ("Q2", "P2", "Q4")}
    ended = memory.upsert([fact(("Q3", "P2", "Q4"))], on="2031")
    assert [memory.key(row) for row in ended.ended] == [("Q2", "P2", "Q4")]
    assert held(memory) == {LYON, EURO, ("Q3", "P2", "Q4")}
    assert ("Q2", "P2", "Q4") in held(memory.as_of("2030-06"))
    with pytest.raises(UserError, match=r"the date 2030: the memory stands at 2031-01-01 already"):
        memory.advance("2030")


def test_a_dated_fact_that_is_over_can_be_deleted_for_all_dates(memory: KnowledgeMemory) -> None:
    assert memory.find(*PARIS) is None
    memory.delete([PARIS])
    assert not memory.periods(PARIS)
    assert held(memory.as_of("2020")) == {EURO}
    with pytest.raises(UserError, match=r"'Q0 \| P0 \| Q2': not in the memory"):
        memory.delete([PARIS])
