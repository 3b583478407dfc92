"""Dated changes in a memory's folder: cut at any byte, merged, followed, and folders of before."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.memory.dates import Period
from pipeline.memory.durable import DurableMemory
from pipeline.memory.facts import Key
from pipeline.memory.following import FollowingMemory
from pipeline.memory.snapshot import PERIODS
from pipeline.memory.store import KnowledgeMemory
from tests.memory.killed import Drawn
from tests.memory.small import fact, held
from tests.tiny import memory_settings

DATES = ("2019", "2020", "2021", "2022", "2030")
SETTINGS = memory_settings(entities=100, sources=["register"])
FIRST, SECOND, THIRD = (("Q0", "P0", tail) for tail in ("Q2", "Q3", "Q5"))

State = tuple[str, dict[Key, list[Period]], list[set[Key]]]


def state(memory: KnowledgeMemory) -> State:
    """Return all that a memory knows: its date, the periods, and what held on some dates and holds now."""
    periods = {memory.key(row): list(memory.chronicle.of(row)) for row in range(memory._facts.end)}
    known = {key: its for key, its in periods.items() if its}
    return memory.chronicle.on, known, [held(memory), *(held(memory.as_of(date)) for date in DATES)]


def carry_out(memory: DurableMemory) -> list[State]:
    """Write, supersede, let end and delete; return the state before and after each change."""
    states = [state(memory)]
    dated = replace(fact(SECOND), start="2020-06", end="2029", source="register")
    for change in (
        lambda: memory.upsert([fact(FIRST), fact(("Q1", "P1", "Q5"))]),
        lambda: memory.upsert([dated], replace=True, on="2021"),
        lambda: memory.upsert(
            [replace(fact(THIRD), start="2020", source="news")], replace=True, on="2021-02"
        ),
        lambda: memory.advance("2029-01-01"),
        lambda: memory.delete([FIRST], on="2029-02"),
    ):
        change()
        states.append(state(memory))
    return states


def test_a_journal_cut_at_any_byte_holds_each_change_whole_or_not_at_all(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        states = carry_out(memory)
    assert len({str(one) for one in states}) == len(states)
    journal = tmp_path / "journal-000001"
    whole = journal.read_bytes()
    at = 0
    for end in range(24, len(whole) + 1, 7):
        journal.write_bytes(whole[:end])
        found = state(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn()))
        assert found in states[at : at + 2]
        at = states.index(found)
    journal.write_bytes(whole)
    assert state(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == states[-1]


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_a_merge_keeps_periods_sources_and_the_past(tmp_path: Path, layout: str) -> None:
    settings = replace(SETTINGS, layout=layout)
    with DurableMemory.begun(tmp_path, settings, Drawn(), "none") as memory:
        right = carry_out(memory)[-1]
        follower = FollowingMemory.open(tmp_path, settings, Drawn())
        memory.merge()
        assert state(memory) == right
        follower.follow()
        assert state(follower) == right
        while layout == "factored" and follower.follow() == 0:  # until the snapshot is open
            time.sleep(0.001)
        assert state(follower) == right
    for _ in range(2):
        with DurableMemory.begun(tmp_path, settings, Drawn(), "none") as memory:
            assert state(memory) == right
            memory.merge()
    memory = KnowledgeMemory.open(tmp_path, settings, Drawn())
    assert state(memory) == right
    memory.snapshot(tmp_path / "copy")
    assert state(KnowledgeMemory.open(tmp_path / "copy", settings, Drawn())) == right


def test_what_follows_refuses_to_let_time_go_on(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        past = follower.as_of("2020")
        memory.upsert([replace(fact(FIRST), start="2020", end="2022")], on="2021")
        assert follower.follow() == 1
        assert held(follower.as_of("2020")) == {FIRST}
        assert held(past) == set()
        with pytest.raises(UserError, match=r"open for reading"):
            follower.advance("2022")
        memory.advance("2022")
        assert follower.follow() == 1
        assert held(follower) == set()


def test_a_folder_of_before_is_read_as_it_is_and_written_to_as_a_new_one(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        memory.upsert([fact(FIRST)])
    manifest = tmp_path / "manifest.json"
    values = json.loads(manifest.read_bytes())
    assert values["version"] == 2
    assert b'"on"' not in (tmp_path / "journal-000001").read_bytes()
    manifest.write_text(json.dumps(values | {"version": 1}))
    follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
    assert held(follower) == {FIRST}
    assert json.loads(manifest.read_bytes())["version"] == 1
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        assert json.loads(manifest.read_bytes()) == values
        memory.upsert([replace(fact(SECOND), start="2020")], replace=True, on="2021")
        assert follower.follow() == 1
        assert held(follower) == {SECOND}
        assert held(follower.as_of("2019")) == {FIRST}


def test_a_folder_of_a_later_version_is_not_called_damaged(tmp_path: Path) -> None:
    DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none").close()
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"version": 3}))
    with pytest.raises(UserError, match=r"manifest.json: written by a later version of this program \(3\)"):
        KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())


def test_damaged_periods_are_named(tmp_path: Path) -> None:
    memory = KnowledgeMemory(SETTINGS, Drawn())
    memory.upsert([replace(fact(FIRST), start="2020")], on="2021")
    memory.snapshot(tmp_path)
    for content in (b"", (tmp_path / "facts.parquet").read_bytes()):
        (tmp_path / PERIODS).write_bytes(content)
        with pytest.raises(UserError, match=r"not a memory \(.*run the stage `index`"):
            KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())
