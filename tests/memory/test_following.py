"""Memories that follow what another one writes to their folder."""

from pathlib import Path

import pytest
import torch

from pipeline.config import UserError
from pipeline.memory.durable import DurableMemory
from pipeline.memory.following import FollowingMemory
from pipeline.memory.records import DamageError
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
