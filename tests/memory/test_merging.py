"""Merges beside the writer."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.memory import generations, merging
from pipeline.memory.durable import SHARE, DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key
from pipeline.memory.flat import LIST
from pipeline.memory.following import FollowingMemory
from pipeline.memory.records import records
from pipeline.memory.statements import Editor
from pipeline.memory.store import KnowledgeMemory
from tests.memory.beside import Beside
from tests.memory.killed import SETTINGS, Drawn, carry_out, expected
from tests.memory.small import KEY_LISTS, ask, fact, filled, held
from tests.tiny import memory_settings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def merged(number: int) -> list[str]:
    """Return what lies in a folder of a generation where nothing goes on."""
    return [f"base-{number:06d}", f"journal-{number:06d}", "lock", "manifest.json"]


def test_changes_are_acknowledged_found_and_followed_while_a_merge_is_held_up(tmp_path: Path) -> None:
    """The process that merges is stopped by a signal, so that nothing of it can go on meanwhile."""
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        follower = FollowingMemory.open(tmp_path, SETTINGS, Drawn())
        for number in range(8):
            carry_out(memory, number)
        rows = {memory.find(*key): key for key in held(memory)}
        memory.begin_merge()
        merge = memory.merging
        assert merge is not None
        os.kill(merge.pid, signal.SIGSTOP)
        memory.begin_merge()
        assert memory.merging is merge, "one at a time"
        for number in range(8, 14):
            carry_out(memory, number)
            follower.follow()
            assert held(memory) == held(follower) == held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn()))
            assert held(memory) == expected(number + 1)
        memory.upsert([Fact("new", "P0", "Q1", "New")])
        assert merge.going
        assert generations.current(tmp_path).number == 1  # type: ignore[union-attr]
        os.kill(merge.pid, signal.SIGCONT)
        merge.wait()
        assert names(tmp_path) == merged(2)
        assert [record.number for record in records(tmp_path / "journal-000002")] == list(range(9, 16))
        now = expected(14) | {("new", "P0", "Q1")}
        assert held(memory) == held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == now
        assert {row: memory.fact(row).key for row in rows} == rows, "ids stay"
        assert follower.follow() == 1
        query = ask(Drawn(), 2)
        torch.testing.assert_close(memory.search(query, 9).scores, follower.search(query, 9).scores)
        memory.delete([("new", "P0", "Q1")])
        assert follower.follow() == 1
        assert held(memory) == held(follower) == expected(14)


def killed(merge: merging.Merging, _: Path) -> None:
    os.kill(merge.pid, signal.SIGKILL)


def damaged(merge: merging.Merging, folder: Path) -> None:
    (folder / "base-000001" / LIST).write_bytes(b"{")
    os.kill(merge.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("meets", "text"),
    [(killed, "its process ended with -9"), (damaged, rf"{LIST}: damaged \(JSONDecodeError")],
)
def test_a_merge_that_fails_is_told_of_and_leaves_the_memory_as_it_is(
    tmp_path: Path,
    meets: Callable[[merging.Merging, Path], None],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        for number in range(4):
            carry_out(memory, number)
        listed = tmp_path / "base-000001" / LIST
        whole = listed.read_bytes()
        memory.begin_merge()
        merge = memory.merging
        assert merge is not None
        os.kill(merge.pid, signal.SIGSTOP)
        carry_out(memory, 4)
        meets(merge, tmp_path)
        with pytest.raises(UserError, match=rf"not merged \(.*{text}.* changes are in the journal as before"):
            merge.wait()
        assert "not merged" in caplog.text
        listed.write_bytes(whole)
        assert names(tmp_path) == merged(1)
        carry_out(memory, 5)
        assert held(memory) == held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == expected(6)
        memory.merge()
        assert names(tmp_path) == merged(2)
    assert held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == expected(6)


@pytest.mark.parametrize("ends", [DurableMemory.close, DurableMemory.merge])
def test_a_merge_is_given_up_where_the_memory_is_closed_or_merged_at_once(
    tmp_path: Path, ends: Callable[[DurableMemory], None]
) -> None:
    memory = DurableMemory.begun(tmp_path, SETTINGS, Drawn())
    for number in range(4):
        carry_out(memory, number)
    memory.begin_merge()
    merge = memory.merging
    assert merge is not None
    os.kill(merge.pid, signal.SIGSTOP)
    carry_out(memory, 4)
    ends(memory)
    assert not merge.going
    with pytest.raises(ProcessLookupError):
        os.kill(merge.pid, 0)
    assert names(tmp_path) == merged(1 if ends is DurableMemory.close else 2)
    assert held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == expected(5)
    memory.close()


def test_the_process_ends_when_its_writer_is_gone(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        carry_out(memory, 0)
        told = {"folder": str(tmp_path), "until": memory.journal.size, "work": str(tmp_path / "work")}
        task = merging.Task(**told, encoder="drawn", settings=asdict(SETTINGS), writer=1)
        merge = merging.Merging(task, lambda files: pytest.fail("it had no writer"))
        with pytest.raises(UserError, match="its process ended with 1"):
            merge.wait()
        assert not (tmp_path / "work").exists()


def test_a_merge_begins_by_itself_after_so_many_changes(tmp_path: Path) -> None:
    section = replace(SETTINGS, merge_after=6)
    with Beside.begun(tmp_path, section, Drawn()) as memory:
        number = 0
        while memory.merging is None:
            carry_out(memory, number)
            number += 1
        with Beside.begun(tmp_path / "other", SETTINGS, Drawn()) as never:
            for other in range(number + 9):
                carry_out(never, other)
            assert never.merging is None
        assert number > 1
        for later in range(number, number + 5):
            carry_out(memory, later)
        memory.let_end()
        assert names(tmp_path)[0] == "base-000002"
        assert held(memory) == expected(number + 5)


def test_a_merge_of_a_large_memory_waits_for_a_share_of_it(texts: TextEncoder, tmp_path: Path) -> None:
    section = memory_settings(merge_after=1)
    start = KnowledgeMemory(memory_settings(), texts)
    start.upsert([Fact("h", "r", f"t{i}", "head", "relation", f"tail {i}") for i in range(3 * SHARE)])
    with Beside.begun(tmp_path, section, texts, start=start) as memory:
        for place in range(3):
            assert memory.merging is None
            memory.upsert([Fact(f"t{place}", "r", "h")])
        assert memory.merging is not None
        memory.let_end()
        assert len(memory) == 3 * SHARE + 3


def test_a_disk_that_fails_while_a_merge_is_taken_over_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fsync of the writer from when the snapshot is there fails in turn."""
    real, outcomes, told = os.fsync, set(), []
    for calls in range(9):
        folder = tmp_path / str(calls)
        memory = Beside.begun(folder, SETTINGS, Drawn())
        for number in range(3):
            carry_out(memory, number)
        memory.begin_merge()
        carry_out(memory, 3)
        while not (folder / ".merge-000001" / "base" / LIST).exists():
            time.sleep(0.001)
        time.sleep(0.05)  # its last fsyncs
        left = iter(range(100))

        def fails(descriptor: int, left=left, calls=calls) -> None:
            if next(left) == calls:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fails)
        try:
            memory.let_end()
            outcomes.add("merged")
        except UserError as error:
            told.append(str(error))
            outcomes.add(generations.current(folder).number)  # type: ignore[union-attr]
        monkeypatch.undo()
        try:
            carry_out(memory, 4)
        except UserError as error:
            told.append(str(error))
            assert held(memory) == expected(4)
        else:
            assert held(memory) == expected(5)
        memory.close()
        with DurableMemory.begun(folder, SETTINGS, Drawn()) as again:
            assert held(again) == held(memory)
            assert len(names(folder)) == 4
    assert outcomes == {1, 2, "merged"}
    assert all("No space left" in text or "as a merge was interrupted" in text for text in told)
    assert any("takes no further change" in text for text in told)


def test_names_that_are_new_since_are_known_by_label_after_it(texts: TextEncoder, tmp_path: Path) -> None:
    with Beside.begun(tmp_path, memory_settings(), texts) as memory:
        editor = Editor(memory)
        editor.upsert(["Aland | capital | Paris"], False)
        memory.begin_merge()
        editor.upsert(["Borland | capital | Lyon"], False)
        memory.let_end()
        editor.upsert(["Cland | capital | Nice"], False)
        editor.upsert(["Cland | anthem | Song", "Borland | anthem | Lyon"], False)
        assert held(memory) == {
            ("local:Aland", "local:capital", "local:Paris"),
            ("local:Borland", "local:capital", "local:Lyon"),
            ("local:Cland", "local:capital", "local:Nice"),
            ("local:Cland", "local:anthem", "local:Song"),
            ("local:Borland", "local:anthem", "local:Lyon"),
        }
        right = filled(texts, [])
        Editor(right).upsert(
            [
                "Aland | capital | Paris",
                "Borland | capital | Lyon",
                "Cland | capital | Nice",
                "Cland | anthem | Song",
                "Borland | anthem | Lyon",
            ],
            False,
        )
        query = ask(texts, 3)
        torch.testing.assert_close(
            memory.search(query, 5).scores, right.search(query, 5).scores, atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("merges", [0, 1, 2])
def test_a_memory_of_which_nothing_was_left_is_merged_too(tmp_path: Path, merges: int) -> None:
    keys = [("Q0", "P0", "Q1"), ("Q2", "P1", "Q3")]
    with Beside.begun(tmp_path, SETTINGS, Drawn()) as memory:
        rows = memory.upsert([fact(key) for key in keys]).facts
        if merges > 0:
            memory.merge()
        memory.delete(keys)
        if merges > 1:
            memory.merge()
        memory.begin_merge()
        assert memory.upsert([fact(key) for key in keys]).facts == rows
        memory.let_end()
        assert held(memory) == set(keys)
        memory.merge()
        assert [memory.find(*key) for key in keys] == rows
        assert held(memory) == held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn())) == set(keys)


CHANGES = st.lists(st.tuples(st.sampled_from(["upsert", "replace", "delete"]), KEY_LISTS), max_size=4)


def carried(memory: KnowledgeMemory, changes: list[tuple[str, list[Key]]]) -> None:
    for kind, keys in changes:
        if kind == "delete":
            memory.delete([key for key in keys if memory.known(key) is not None], "2020")
        else:
            memory.upsert([fact(key) for key in keys], replace=kind == "replace", on="2020")


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.tuples(CHANGES, CHANGES, st.booleans()), min_size=1, max_size=3), last=CHANGES)
def test_any_changes_before_during_and_after_merges_leave_what_they_do_without(
    texts: TextEncoder,
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[list[tuple[str, list[Key]]], list[tuple[str, list[Key]]], bool]],
    last: list[tuple[str, list[Key]]],
) -> None:
    folder = tmp_path_factory.mktemp("merged")
    section = memory_settings(entities=100, N=120)
    right = KnowledgeMemory(section, texts)
    with Beside.begun(folder, section, texts, "none") as memory:
        follower = FollowingMemory.open(folder, section, texts)
        seen: dict[int, Key] = {}
        for before, during, at_once in turns:
            for one in (memory, right):
                carried(one, before)
            if at_once:
                memory.merge()
            else:
                memory.begin_merge()
            for one in (memory, right):
                carried(one, during)
            if not at_once:
                memory.let_end()
            alike(memory, right, seen)
            follower.follow()
            assert held(follower) == held(right)
        for one in (memory, right):
            carried(one, last)
        alike(memory, right, seen)
    again = KnowledgeMemory.open(folder, section, texts)
    assert held(again) == held(right)
    for key in {key for key in seen.values() if right.known(key) is not None}:
        assert again.periods(key) == right.periods(key)


def alike(memory: KnowledgeMemory, right: KnowledgeMemory, seen: dict[int, Key]) -> None:
    """Check that both hold and find the same, and that ids which were seen before are of the same facts."""
    assert held(memory) == held(right)
    assert len(memory) == len(right) == int(memory.alive.sum())
    for row, key in seen.items():
        assert memory.fact(row).key == key
    triples = memory.triples
    for row, holds in enumerate(memory.alive.tolist()):
        key = memory.key(row)
        assert (memory.find(*key) == row) == holds
        assert seen.setdefault(row, key) == key
        assert memory._keys_of(triples[row].tolist()) == key
        assert memory.periods(key) == right.periods(key)
    query = ask(memory.encoder, 2)
    left, other = memory.search(query, 120), right.search(query, 120)
    torch.testing.assert_close(left.scores, other.scores, atol=1e-5, rtol=1e-5)
    for question in range(2):
        rows = [row for row in left.facts[question].tolist() if row >= 0]
        assert {memory.key(row) for row in rows} == held(right)
    then = memory.as_of("2019"), right.as_of("2019")
    assert held(then[0]) == held(then[1])
