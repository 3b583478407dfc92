import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.memory import records as layout
from pipeline.memory.journal import Journal
from pipeline.memory.records import START, DamageError, records

PAYLOADS = [b"first", b"", b"a longer record \x00\xff"]


def written(file: Path, payloads: list[bytes], sync: str = "none", first: int = 1) -> Journal:
    Journal.create(file, first)
    made = Journal(file, sync)
    for number, payload in enumerate(payloads, start=first):
        assert made.append(payload) == number
    return made


def payloads(file: Path) -> list[bytes]:
    return [record.payload for record in records(file)]


@given(contents=st.lists(st.binary(max_size=40), max_size=8), first=st.integers(1, 2**63))
@settings(max_examples=30, deadline=None)
def test_what_is_appended_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], first: int
) -> None:
    file = tmp_path_factory.mktemp("journal") / "journal"
    written(file, contents[:4], first=first).close()
    again = Journal(file, "none")
    for payload in contents[4:]:
        again.append(payload)
    again.close()
    found = list(records(file))
    assert [record.payload for record in found] == contents
    assert [record.number for record in found] == list(range(first, first + len(contents)))


def test_a_journal_cut_at_any_byte_keeps_the_records_before_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    written(file, PAYLOADS).close()
    whole, ends = file.read_bytes(), [record.end for record in records(file)]
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        if size < START.size:
            for attempt in (lambda: payloads(file), lambda: Journal(file, "none")):
                with pytest.raises(DamageError, match=r"journal: damaged at byte 0 .*verify --repair"):
                    attempt()
            continue
        kept = sum(end <= size for end in ends)
        assert payloads(file) == PAYLOADS[:kept]
        again = Journal(file, "none")
        assert again.append(b"new") == kept + 1
        again.close()
        assert payloads(file) == [*PAYLOADS[:kept], b"new"]


def test_a_flipped_bit_anywhere_is_named_and_never_read(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    written(file, PAYLOADS).close()
    whole, found = file.read_bytes(), list(records(file))
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            begins = max((record.start for record in found if record.start <= place), default=0)
            read = []
            with pytest.raises(DamageError, match=f"damaged at byte {begins} ") as raised:
                read += [record.payload for record in records(file)]
            assert (raised.value.file, raised.value.offset) == (file, begins)
            with pytest.raises(DamageError):
                Journal(file, "none")
            assert file.read_bytes() == bytes(changed), "what is damaged is left as it is"


def test_a_record_out_of_its_order_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    written(file, PAYLOADS).close()
    whole, found = file.read_bytes(), list(records(file))
    file.write_bytes(whole[: found[0].end] + whole[found[1].end :])
    with pytest.raises(DamageError, match="record 3 stands where 2 should"):
        payloads(file)
    file.write_bytes(whole + whole[found[2].start :])
    with pytest.raises(DamageError, match="record 3 stands where 4 should"):
        payloads(file)


def test_another_version_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "VERSION", 2)
    Journal.create(tmp_path / "journal", 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"written by another version of this program \(2\)") as raised:
        payloads(tmp_path / "journal")
    assert not isinstance(raised.value, DamageError)


def test_a_torn_record_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "journal"
    written(file, PAYLOADS).close()
    file.write_bytes(file.read_bytes()[:-1])
    payloads(file)
    assert "journal: 41 bytes of a record that was never acknowledged" in caplog.text


@pytest.mark.parametrize("sync", ["always", "group", "none"])
def test_what_the_policy_promises_is_on_disk(
    tmp_path: Path, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`synced` follows fsync, and a journal that lost all that came later holds every promised record."""
    file = tmp_path / "journal"
    held = written(file, [], sync)
    calls = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(held.size), fsync(descriptor))[1])
    for payload in PAYLOADS:
        held.append(payload)
    assert len(calls) == (0 if sync == "none" else len(PAYLOADS))
    assert held.synced == (START.size if sync == "none" else held.size)
    lost = tmp_path / "lost"
    lost.write_bytes(file.read_bytes()[: held.synced])
    assert payloads(lost) == ([] if sync == "none" else PAYLOADS)
    held.close()


def test_threads_that_wait_at_once_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = written(tmp_path / "journal", [], "group")
    calls: list[int] = []
    first, go = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        first.set()
        assert go.wait(20)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    threads = [threading.Thread(target=held.append, args=(b"one",))]
    threads[0].start()
    assert first.wait(20)
    threads += [threading.Thread(target=held.append, args=(b"more",)) for _ in range(8)]
    for thread in threads[1:]:
        thread.start()
    while held.next < 10:  # all eight are written while the first one's fsync goes on
        threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 2
    assert held.synced == held.size
    held.close()


def failing(real: Callable[..., int], code: int, after: int = 0) -> Callable[..., int]:
    """Fail as a disk does: after `after` bytes of the call."""

    def write(descriptor: int, content: bytes, offset: int) -> int:
        if after and len(content) > after:
            return real(descriptor, content[:after], offset)
        raise OSError(code, os.strerror(code))

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("after", [0, 5])
def test_a_record_that_finds_no_room_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    file = tmp_path / "journal"
    held = written(file, PAYLOADS[:1])
    before = file.read_bytes()
    real = os.pwrite
    parts = iter([failing(real, code, after), failing(real, code)])
    monkeypatch.setattr(os, "pwrite", lambda *given: next(parts)(*given))
    with pytest.raises(UserError, match=r"can't be written to \(.+\), so nothing was changed; free some"):
        held.append(b"x" * 100)
    assert file.read_bytes() == before
    monkeypatch.undo()
    assert held.append(b"short") == 2
    held.close()
    assert payloads(file) == [PAYLOADS[0], b"short"]


def test_a_full_device_refuses_for_real(tmp_path: Path) -> None:
    """On /dev/full every write fails, and nothing can be cut off either."""
    file = tmp_path / "journal"
    held = written(file, PAYLOADS[:1])
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, held._file)
    os.close(full)
    with pytest.raises(UserError, match="No space left on device"):
        held.append(b"x")
    with pytest.raises(UserError, match=r"takes no further change, as what was written .* can't be removed"):
        held.append(b"x")
    held.close()
    assert payloads(file) == PAYLOADS[:1]


@pytest.mark.parametrize("sync", ["always", "group"])
def test_a_failing_fsync_refuses_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    file = tmp_path / "journal"
    held = written(file, PAYLOADS[:2], sync)
    before = file.read_bytes()
    fsync, failures = os.fsync, [True]

    def broken(descriptor: int) -> None:
        if failures:
            failures.pop()
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UserError, match="Input/output error"):
        held.append(b"lost")
    assert file.read_bytes() == before
    if sync == "always":
        assert held.append(b"again") == 3
    else:
        with pytest.raises(UserError, match="takes no further change, as its disk failed"):
            held.append(b"again")
    held.close()
    assert payloads(file) == PAYLOADS[:2] + ([b"again"] if sync == "always" else [])


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.config import UserError
from pipeline.memory.journal import Journal
file = Path(sys.argv[1])
Journal.create(file, 1)
held = Journal(file, "always")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
while True:
    size = file.stat().st_size
    try:
        held.append(b"x" * 700)
    except UserError as error:
        assert file.stat().st_size == size == held.size
        print(held.next, error)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
print(held.append(b"room again"))
"""


def test_a_file_that_may_not_grow_refuses_and_goes_on(tmp_path: Path) -> None:
    """The limit of a real process: the write that meets it is cut short by the kernel, then fails."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, appended = done.stdout.splitlines()
    number, _, text = refused.partition(" ")
    assert "File too large" in text
    assert "free some space there, or raise the limit" in text
    assert appended == number
    assert [len(payload) for payload in payloads(tmp_path / "journal")] == [700] * (int(number) - 1) + [10]


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    held = written(tmp_path / "journal", PAYLOADS, "group")
    held.close()
    held.close()
    with pytest.raises(UserError, match="takes no further change, as it was closed"):
        held.append(b"x")


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    Journal.create(tmp_path / "journal", 1)
    with pytest.raises(UserError, match="sync policy must be one of always, group, none, not 'often'"):
        Journal(tmp_path / "journal", "often")
    with pytest.raises(UserError, match="absent: can't be opened for writing"):
        Journal(tmp_path / "absent", "none")


def test_a_journal_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Journal.create(tmp_path / "journal", 1)
    assert list(tmp_path.iterdir()) == []
