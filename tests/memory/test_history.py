"""What slots held, what everything is, and what is known of a memory's changes."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.memory.durable import DurableMemory
from pipeline.memory.facts import Fact
from pipeline.memory.history import everything, history, slot_state
from pipeline.memory.store import KnowledgeMemory
from tests.memory.killed import SETTINGS, Drawn
from tests.memory.small import fact, held
from tests.tiny import memory_settings

PARIS, LYON, NICE, EURO = ("Q0", "P0", "Q2"), ("Q0", "P0", "Q3"), ("Q0", "P0", "Q4"), ("Q1", "P1", "Q5")


@pytest.fixture
def memory() -> KnowledgeMemory:
    memory = KnowledgeMemory(memory_settings(entities=100, N=20), Drawn())
    memory.upsert([fact(PARIS), fact(EURO)], on="2020")
    memory.upsert([replace(fact(LYON), start="2021", source="atlas")], replace=True, on="2022")
    memory.upsert([replace(fact(NICE), start="2025")], replace=True, on="2023")
    return memory


def test_a_slot_tells_its_values_and_what_followed_them(memory: KnowledgeMemory) -> None:
    told = history(memory, "Q0", "P0")
    assert [memory.key(one.row) for one in told] == [PARIS, LYON, NICE]
    assert [(one.period.start, one.period.end) for one in told] == [
        ("", "2021"),
        ("2021", "2025"),
        ("2025", ""),
    ]
    assert [tuple(map(memory.key, one.by)) for one in told] == [(LYON,), (NICE,), ()]
    assert told[1].period.source == "atlas"
    [euro] = history(memory, "Q1", "P1")
    assert euro.period.plain
    memory.delete([LYON])
    assert [memory.key(one.row) for one in history(memory, "Q0", "P0")] == [PARIS, NICE]
    assert history(memory, "Q4", "P0") == history(memory, "unknown", "P0") == []


def test_everything_is_what_a_copy_needs(memory: KnowledgeMemory) -> None:
    facts = everything(memory)
    some = next(facts)
    memory.delete([NICE])
    told = [some, *facts]
    assert len(told) == 4, "it is of the moment that it began"
    copy = KnowledgeMemory(memory.settings, Drawn())
    copy.upsert(told, on="2023")
    memory.upsert([replace(fact(NICE), start="2025")], replace=True)
    for date in ("1066", "2021", "2024", "2025"):
        assert held(copy.as_of(date)) == held(memory.as_of(date))
    plain = KnowledgeMemory(memory.settings, Drawn())
    plain.upsert([fact(PARIS)])
    assert list(everything(plain)) == [Fact(*PARIS, "Aland", "capital", "Paris")]
    assert list(everything(KnowledgeMemory(memory.settings, Drawn()))) == []


def test_the_state_of_a_slot_changes_with_it_alone(memory: KnowledgeMemory) -> None:
    before = slot_state(memory, "Q0", "P0")
    memory.delete([EURO])
    assert slot_state(memory, "Q0", "P0") == before
    memory.upsert([replace(fact(NICE), source="atlas")])
    assert slot_state(memory, "Q0", "P0") != before


def test_ids_come_by_the_page_and_tails_are_looked_through(memory: KnowledgeMemory) -> None:
    rows = [memory.find(*key) for key in (EURO, LYON)]
    assert memory.page(0, 10) == sorted(row for row in rows if row is not None)
    assert memory.page(0, 1) == memory.page(0, 10)[:1]
    assert memory.page(memory.page(0, 10)[1], 5) == memory.page(0, 10)[1:]
    assert memory.facts_to(memory.entities.row("Q5"), 1000) == [memory.find(*EURO)]
    assert memory.facts_to(memory.entities.row("Q2"), 1000) == [], "Paris holds no longer"
    assert memory.facts_to(memory.entities.row("Q5"), 1) is None
    assert memory.holds(memory.find(*LYON) or 0)
    assert not memory.holds(memory.known(PARIS) or 0)


def test_versions_grow_over_changes_merges_and_restarts(tmp_path: Path) -> None:
    seen = []
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        for key in (PARIS, LYON):
            memory.upsert([fact(key)])
            seen.append(memory.version)
            assert memory.version == memory.journal.next
        memory.merge()
        memory.delete([PARIS])
        seen.append(memory.version)
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        assert memory.version == seen[-1]
        memory.upsert([fact(NICE)])
        seen.append(memory.version)
    assert seen == sorted(set(seen))


def test_nothing_changes_between_steps_that_are_alone(memory: KnowledgeMemory) -> None:
    began, done = threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        memory.upsert([fact(("Q4", "P2", "Q5"))])
        done.set()

    writer = threading.Thread(target=write)
    with memory.alone():
        before = memory.version
        writer.start()
        began.wait()
        assert not done.wait(0.1)
        assert memory.version == before
        memory.delete([EURO])
        assert memory.version == before + 1
    writer.join()
    assert memory.version == before + 2
