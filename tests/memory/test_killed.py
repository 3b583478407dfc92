"""Processes that are killed, and processes that meet in one folder."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.config import ROOT, UserError
from pipeline.memory import generations
from pipeline.memory.durable import DurableMemory
from pipeline.memory.store import KnowledgeMemory
from tests.memory.beside import Forking
from tests.memory.killed import MERGE_EVERY, SETTINGS, Drawn, carry_out, expected, states
from tests.memory.small import held

KILLS = int(os.environ.get("KILLS", "1000"))
"""Rounds of the long test."""
COMMAND = [sys.executable, "-m", "tests.memory.killed"]


@pytest.fixture
def writers() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def killed(writers: subprocess.Popen[str], folder: Path, sync: str, draw: random.Random) -> tuple[int, int]:
    """Let a process write to `folder`, kill it somewhere; return how many changes it acknowledged and tried.

    Both are -1 where it was killed before its first one.
    """
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(f"{folder}\t{sync}\n")
    writers.stdin.flush()
    process = int(writers.stdout.readline().removeprefix("pid "))
    moments = ("now", "change", "merge")
    moment = moments[draw.choice([0, 1, 1, 2])]
    wanted = draw.randrange(12)
    done = tried = -1
    dead = False
    for line in writers.stdout if moment != "now" else ():
        word, _, number = line.rstrip("\n").partition(" ")
        tried = int(number) if word == "try" else tried
        done = int(number) if word == "done" else done
        wanted -= 1
        if wanted < 0 and word == ("merge" if moment == "merge" else "try"):
            break
    time.sleep(draw.random() * {"now": 0.02, "change": 0.004, "merge": 0.04}[moment])
    os.kill(process, signal.SIGKILL)
    while not dead:
        word, _, number = writers.stdout.readline().rstrip("\n").partition(" ")
        tried = int(number) if word == "try" else tried
        done = int(number) if word == "done" else done
        dead = word == "dead"
    return done + 1, tried + 1


def kill_and_reopen(writers: subprocess.Popen[str], folder: Path, rounds: int) -> tuple[int, int, int]:
    """Return after how many kills a merge was half done, one beside, and a change that nobody was told of."""
    draw = random.Random(rounds)
    number = merged = beside = during = 0
    for turn in range(rounds):
        done, tried = killed(writers, folder, draw.choice(["always", "group", "none"]), draw)
        least, most = max(number, done), max(number, tried)
        if generations.current(folder) is not None:  # else it was killed before the first one counted
            assert held(KnowledgeMemory.open(folder, SETTINGS, Drawn())) in map(expected, {least, most})
        beside += any(folder.glob(".merge-*"))
        merged += len([*folder.glob("base-*"), *folder.glob(".base-*")]) > 1
        with DurableMemory.begun(folder, SETTINGS, Drawn(), "none") as memory:
            number = memory.journal.next - 1
            assert least <= number <= most, f"round {turn}: acknowledged {least}, tried {most}, has {number}"
            during += number > done
            assert held(memory) == expected(number)
            assert len(list(folder.iterdir())) == 4, "nothing else is left behind"
        if number > 300:  # `expected` goes through all of them
            for path in folder.iterdir():
                generations.remove(path)
            number = 0
    return merged, beside, during


def test_a_killed_writer_leaves_what_it_acknowledged(writers: subprocess.Popen[str], tmp_path: Path) -> None:
    kill_and_reopen(writers, tmp_path / "memory", 8)


def kill_merges(folder: Path, rounds: int) -> tuple[int, list[str]]:
    """Kill merges beside a writer that goes on; return how many ended before, and what was told of others."""
    draw = random.Random(rounds)
    ended, failed = 0, []
    with Forking.begun(folder, SETTINGS, Drawn(), "none") as memory:
        for turn in range(rounds):
            memory.begin_merge()
            for _ in range(draw.randrange(4)):
                carry_out(memory, memory.journal.next - 1)
            time.sleep(draw.random() * 0.6)
            with suppress(ProcessLookupError):
                os.kill(memory.going.pid, signal.SIGKILL)
            try:
                memory.going.wait()
                ended += 1
            except UserError as error:
                failed.append(str(error))
            carry_out(memory, memory.journal.next - 1)
            number = memory.journal.next - 1
            now = expected(number)
            assert held(memory) == now, f"round {turn}"
            assert held(KnowledgeMemory.open(folder, SETTINGS, Drawn())) == now
            assert len(list(folder.iterdir())) == 4
    return ended, failed


def test_a_merge_that_is_killed_leaves_its_writer_writing(tmp_path: Path) -> None:
    ended, failed = kill_merges(tmp_path / "memory", 6)
    assert ended + len(failed) == 6
    assert all("not merged" in told for told in failed)


@pytest.mark.soak
def test_merges_killed_at_many_points_leave_their_writer_writing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    ended, failed = kill_merges(tmp_path / "memory", KILLS // 10)
    assert failed
    record_property("merges_killed", len(failed))
    record_property("merges_ended_before", ended)


@pytest.mark.soak
def test_a_writer_killed_at_many_points_leaves_what_it_acknowledged(
    writers: subprocess.Popen[str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    merged, beside, during = kill_and_reopen(writers, tmp_path / "memory", KILLS)
    assert merged
    assert beside
    assert during
    record_property("kills", KILLS)
    record_property("kills_in_merges", merged)
    record_property("kills_in_merges_beside", beside)
    record_property("kills_in_changes", during)


def test_a_second_writer_is_told_who_is_first_and_readers_are_let_in(
    writers: subprocess.Popen[str], tmp_path: Path
) -> None:
    """While another process writes and merges without end, this one reads whole states only."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(f"{tmp_path}\tnone\n")
    writers.stdin.flush()
    process = int(writers.stdout.readline().removeprefix("pid "))
    assert writers.stdout.readline() == "try 0\n"
    heard: list[str] = []
    listener = threading.Thread(target=lambda: heard.extend(iter(writers.stdout.readline, "dead\n")))  # type: ignore[union-attr]
    listener.start()
    with pytest.raises(
        UserError, match=rf"process {process} has it open for writing; end that process .* for reading"
    ):
        DurableMemory.begun(tmp_path, SETTINGS, Drawn())
    right, at = states(5000), 0
    while at < 3 * MERGE_EVERY and listener.is_alive():
        found = held(KnowledgeMemory.open(tmp_path, SETTINGS, Drawn()))
        at = right.index(found, at)  # raises where it is none of the states from the last one on
    os.kill(process, signal.SIGKILL)
    listener.join(20)
    assert at >= 3 * MERGE_EVERY
    assert "merge\n" in heard
    DurableMemory.begun(tmp_path, SETTINGS, Drawn()).close()


def test_a_process_may_not_write_twice(tmp_path: Path) -> None:
    with (
        DurableMemory.begun(tmp_path, SETTINGS, Drawn()),
        pytest.raises(UserError, match=rf"process {os.getpid()} \(this one\) has it open"),
    ):
        DurableMemory.begun(tmp_path, SETTINGS, Drawn())
    DurableMemory.begun(tmp_path, SETTINGS, Drawn()).close()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/memory: can't be written to \(Not a directory\)"):
        DurableMemory.begun(tmp_path / "file" / "memory", SETTINGS, Drawn())
