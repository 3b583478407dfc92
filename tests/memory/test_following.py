"""Memories that follow what another one writes to their folder."""

import threading
from pathlib import Path

import pytest
import torch

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.durable import DurableMemory
from pipeline.memory.flat import LIST
from pipeline.memory.following import FollowingMemory
from pipeline.memory.records import DamageError
from tests.memory.beside import Beside
from tests.memory.killed import SETTINGS, Drawn, carry_out, states
from tests.memory.small import ask, fact, held

CHANGES = 20


@pytest.mark.parametrize("every", [1, 3])
def test_it_sees_every_change_and_goes_on_after_a_merge(tmp_path: Path, every: int) -> None:
    right = states(CHANGES)
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        assert held(follower) == set()
        for number in range(CHANGES):
            carry_out(memory, number)
            if number % 7 == 6:
                memory.merge()
            if number % every == every - 1:
                assert follower.follow() in (1, every)
                assert held(follower) == right[number + 1]
                query = ask(Drawn(), 2)
                torch.testing.assert_close(memory.search(query, 5).scores, follower.search(query, 5).scores)
                assert follower.follow() == 0


def test_a_search_that_began_before_a_merge_ends_with_what_it_began_with(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        for number in range(5):
            carry_out(memory, number)
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        query = ask(Drawn(), 3)
        before, scoring = follower.search(query), follower.arrangement.scoring
        carry_out(memory, 5)
        memory.merge()
        assert follower.follow() == 1
        assert scoring.search(query, len(before.facts[0])).facts.tolist() == before.facts.tolist()


def test_changes_go_on_to_be_seen_while_a_merged_snapshot_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening it is held up: what was held goes on meanwhile, over several merges."""
    right, gate, real = states(CHANGES), threading.Event(), generations.read

    def read(*given: object) -> generations.Contents:
        if threading.current_thread().name == "open":
            gate.wait(60)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(generations, "read", read)
    with Beside.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
        for number in range(5):
            carry_out(memory, number)
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        first = follower._facts.base
        for number in range(5, CHANGES):
            if number % 4 == 1:
                memory.begin_merge()
            if number % 4 == 3:
                memory.let_end()
            carry_out(memory, number)
            if number % 3 == 0:
                follower.follow()
                assert held(follower) == right[number + 1]
        follower.follow()
        assert follower._facts.base is first
        assert held(follower) == right[CHANGES]
        gate.set()
        opening = follower._opening
        assert opening is not None
        opening.join()
        assert follower.follow() == 1
        assert follower._facts.base is not first
        assert held(follower) == right[CHANGES]
        carry_out(memory, CHANGES)
        assert follower.follow() == 1
        assert held(follower) == held(memory) == states(CHANGES + 1)[-1]
        query = ask(Drawn(), 2)
        torch.testing.assert_close(memory.search(query, 5).scores, follower.search(query, 5).scores)


def test_a_merged_snapshot_that_is_damaged_is_told_of_once_and_what_is_held_goes_on(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        carry_out(memory, 0)
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        memory.merge()
        (tmp_path / "base-000002" / LIST).write_bytes(b"{")
        follower.follow()
        opening = follower._opening
        assert opening is not None
        opening.join()
        with pytest.raises(UserError, match=rf"{LIST}: damaged"):
            follower.follow()
        carry_out(memory, 1)
        assert follower.follow() == 1
        assert held(follower) == held(memory) == states(2)[-1]


def test_it_is_not_written_to_and_damage_leaves_it_as_it_is(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        for number in range(3):
            carry_out(memory, number)
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        for change in (lambda: follower.upsert([fact(("Q0", "P0", "Q1"))]), lambda: follower.delete([])):
            with pytest.raises(UserError, match=r"open for reading; open it by `DurableMemory"):
                change()
        before = held(follower)
        carry_out(memory, 3)
        journal = tmp_path / "journal-000001"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-3] + b"xxx")
        with pytest.raises(DamageError, match=r"journal-000001: damaged at byte"):
            follower.follow()
        assert held(follower) == before
        journal.write_bytes(whole)
        assert follower.follow() == 1
        assert held(follower) == held(memory)
