import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.changes import Change, decoded, encoded, folded
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key
from pipeline.memory.journal import Journal
from pipeline.memory.names import New
from pipeline.memory.records import DamageError, records
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.verify import repair, verify
from pipeline.weights import Encoder
from tests.memory.beside import Threaded
from tests.memory.killed import SETTINGS, Drawn, carry_out, expected, states
from tests.memory.small import ask, fact, filled, held
from tests.tiny import memory_settings

BASE: list[Key] = [("Q0", "P0", "Q2"), ("Q0", "P1", "Q3"), ("Q1", "P0", "Q2")]
STRESS = float(os.environ.get("STRESS_SECONDS", "600"))
"""Length of the long test of threads."""


def written(folder: Path, count: int, sync: str = "none") -> None:
    """Carry out the first changes of `tests.memory.killed` in a new folder."""
    with DurableMemory.begun(folder, SETTINGS, Drawn(), sync) as memory:
        for number in range(count):
            carry_out(memory, number)


def reopened(folder: Path) -> KnowledgeMemory:
    return KnowledgeMemory.open(folder, SETTINGS, Drawn())


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("layout", ["factored", "slot"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_memory_searches_alike_after_it_is_reopened(
    texts: TextEncoder, layout: str, merged: bool, tmp_path: Path, encoder: Encoder
) -> None:
    settings = memory_settings(entities=100, layout=layout)
    with DurableMemory.begun(tmp_path, settings, texts) as memory:
        memory.upsert([fact(key) for key in BASE])
        memory.upsert([fact(("Q0", "P0", "Q4")), fact(("Q5", "P2", "Q1"))], replace=True)
        memory.delete([BASE[1]])
        memory.upsert([fact(BASE[1])])
        if merged:
            memory.merge()
    gone = TextEncoder(Encoder(**(vars(encoder) | {"source": str(tmp_path / "nowhere")})), "cpu")
    again = KnowledgeMemory.open(tmp_path, settings, gone)
    query = ask(texts, 9)
    before, after = memory.search(query), again.search(query)
    torch.testing.assert_close(before.scores, after.scores, atol=1e-5, rtol=1e-5)
    assert held(again) == held(memory) == {BASE[1], BASE[2], ("Q0", "P0", "Q4"), ("Q5", "P2", "Q1")}
    for kind in ("entities", "relations", "slots"):
        left, right = getattr(memory, kind), getattr(again, kind)
        assert (*left.keys, *left.texts) == (*right.keys, *right.texts)
        if len(left):
            assert torch.equal(left.vectors, right.vectors), "no text was encoded again"


def test_what_was_written_in_one_layout_opens_in_the_other(texts: TextEncoder, tmp_path: Path) -> None:
    slot = memory_settings(entities=100, layout="slot")
    with DurableMemory.begun(tmp_path, memory_settings(), texts) as memory:
        memory.upsert([fact(key) for key in BASE])
    right = filled(texts, BASE, layout="slot").search(ask(texts, 4))
    assert torch.equal(KnowledgeMemory.open(tmp_path, slot, texts).search(ask(texts, 4)).facts, right.facts)
    with DurableMemory.begun(tmp_path, slot, texts) as memory:
        memory.upsert([fact(("Q5", "P0", "Q2")), fact(("Q0", "P0", "Q5"))])
        memory.merge()
    assert held(KnowledgeMemory.open(tmp_path, slot, texts)) == {
        *BASE,
        ("Q5", "P0", "Q2"),
        ("Q0", "P0", "Q5"),
    }


def test_a_journal_cut_at_any_byte_opens_with_the_changes_before(tmp_path: Path) -> None:
    written(tmp_path, 3)
    journal = tmp_path / "journal-000001"
    whole, found = journal.read_bytes(), list(records(journal))
    right = states(3)
    for size in range(found[0].start, len(whole)):
        journal.write_bytes(whole[:size])
        kept = sum(record.end <= size for record in found)
        assert held(reopened(tmp_path)) == right[kept]
        if size % 9 == 0:  # opening for writing takes longer: a fresh lock, an fsync
            with DurableMemory.begun(tmp_path, SETTINGS, Drawn(), "none") as memory:
                carry_out(memory, kept)
            assert held(reopened(tmp_path)) == right[kept + 1]


def test_a_flipped_byte_is_named_and_what_stands_before_it_can_be_kept(tmp_path: Path) -> None:
    written(tmp_path, 5)
    journal = tmp_path / "journal-000001"
    whole, found = journal.read_bytes(), list(records(journal))
    right = states(5)
    for place in range(0, len(whole), 5):
        journal.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        damaged = journal.read_bytes()
        for opening in (reopened, lambda folder: DurableMemory.begun(folder, SETTINGS, Drawn())):
            with pytest.raises(DamageError, match=r"journal-000001: damaged at byte .* verify") as raised:
                opening(tmp_path)
        aside = repair(tmp_path, Drawn())
        assert aside is not None
        assert aside.read_bytes() == damaged[raised.value.offset :]
        assert held(reopened(tmp_path)) == right[sum(record.end <= place for record in found)]
        aside.unlink()
    assert repair(tmp_path, Drawn()) is None


def test_a_record_that_is_no_change_is_damage(tmp_path: Path) -> None:
    written(tmp_path, 2)
    file = tmp_path / "journal-000001"
    whole = file.read_bytes()
    known = encoded(Change([("Q0", "P0", "Q1")]))
    vectors = torch.zeros(1, 16)
    wrong = [
        b"",
        b"{}",
        b"[1]\n",
        b"\xff\n",
        known.replace(b'"Q0"', b"7"),
        known.replace(b'["Q0","P0","Q1"]', b'["Q0","P0"]'),
        known + b"xx",
        encoded(Change([("Q0", "P0", "unknown")])),
        encoded(Change([], [("Q0", "unknown", "Q1")])),
        encoded(Change(new={"entities": New(["new", "new"], ["a", "b"], torch.zeros(2, 16))})),
        encoded(Change(new={"others": New(["new"], ["New"], vectors)})),
        encoded(Change(new={"entities": New([reopened(tmp_path).entities.keys[0]], ["New"], vectors)})),
    ]
    for payload in wrong:
        file.write_bytes(whole)
        journal = Journal(file, "none")
        journal.append(payload)
        journal.close()
        with pytest.raises(DamageError, match=rf"damaged at byte {len(whole)} \(record 3: ") as raised:
            reopened(tmp_path)
        assert raised.value.offset == len(whole)


def test_a_change_survives_its_encoding_and_changes_fold_into_one(texts: TextEncoder) -> None:
    new = New(["Ä", "b\n|"], ["Ünïcode ☃", "b"], torch.randn(2, 32).half())
    change = Change([("Ä", "r", "b\n|")], [("x", "y", "z")], {"entities": new})
    again = decoded(encoded(change))
    assert (list(again.written), list(again.removed)) == (change.written, change.removed)
    assert torch.equal(again.new["entities"].vectors, new.vectors)
    assert (again.new["entities"].keys, again.new["entities"].texts) == (new.keys, new.texts)
    one = folded([change, Change([("x", "y", "z")], [("Ä", "r", "b\n|")])])
    assert (one.written, one.removed) == ([("x", "y", "z")], [("Ä", "r", "b\n|")])
    with pytest.raises(UserError, match=r"a name holds half a character \('.*\\ud800'\)"):
        encoded(Change([("\ud800", "r", "b")]))


def fails(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["pwrite", "fsync"])
def test_a_full_disk_refuses_the_change_and_searches_go_on(
    texts: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with DurableMemory.begun(tmp_path, memory_settings(), texts) as memory:
        memory.upsert([fact(key) for key in BASE])
        before, facts = files(tmp_path), memory.search(ask(texts, 3)).facts.tolist()
        real = getattr(os, place)
        monkeypatch.setattr(os, place, lambda *given: (monkeypatch.setattr(os, place, real), fails())[1])
        with pytest.raises(UserError, match=r"No space left on device.*nothing was changed; free some"):
            memory.upsert([fact(("Q5", "P2", "Q4"))], replace=True)
        assert files(tmp_path) == before
        assert held(memory) == set(BASE)
        assert "Q5" not in memory.entities
        assert memory.search(ask(texts, 3)).facts.tolist() == facts
        memory.upsert([fact(("Q5", "P2", "Q4"))])
    assert held(KnowledgeMemory.open(tmp_path, memory_settings(), texts)) == {*BASE, ("Q5", "P2", "Q4")}


SYNCS_OF_A_MERGE = 53
"""Of the base: 42 arrays (one of what was superseded), their list with the folder, the list again, the folder
above and its own; then journal and manifest, each with the folder, and the journal again."""


@pytest.mark.parametrize("calls", range(SYNCS_OF_A_MERGE + 1))
def test_a_merge_that_finds_no_room_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Every fsync of a merge fails in turn; the last ones fail when the new generation counts already."""
    memory = DurableMemory.begun(tmp_path, SETTINGS, Drawn())
    for number in range(4):
        carry_out(memory, number)
    before, real, left = files(tmp_path), os.fsync, iter(range(100))
    monkeypatch.setattr(os, "fsync", lambda descriptor: fails() if next(left) == calls else real(descriptor))
    with pytest.raises(UserError, match="No space left") if calls < SYNCS_OF_A_MERGE else nullcontext():
        memory.merge()
    monkeypatch.undo()
    counts = generations.current(tmp_path)
    assert counts is not None
    if counts.number == 1:
        assert calls < SYNCS_OF_A_MERGE
        assert files(tmp_path) == before
        carry_out(memory, 4)
    elif calls < SYNCS_OF_A_MERGE:
        with pytest.raises(UserError, match="takes no further change, as a merge was interrupted"):
            carry_out(memory, 4)
    assert held(memory) in (expected(4), expected(5))
    memory.close()
    assert held(reopened(tmp_path)) == held(memory)
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as again:
        carry_out(again, again.journal.next - 1)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_merge_keeps_ids_and_later_changes(tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        for number in range(6):
            carry_out(memory, number)
        ids = {memory.find(*key): key for key in held(memory)}
        memory.merge()
        assert {memory.find(*key): key for key in held(memory)} == ids
        assert len(list(records(tmp_path / "journal-000002"))) == 0
        for number in range(6, 9):
            carry_out(memory, number)
    assert [record.number for record in records(tmp_path / "journal-000002")] == [7, 8, 9]
    assert held(reopened(tmp_path)) == expected(9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base-000002",
        "journal-000002",
        "lock",
        "manifest.json",
    ]


def test_what_was_synced_survives_the_loss_of_all_else(tmp_path: Path) -> None:
    for sync, count in (("always", 7), ("group", 7)):
        folder = tmp_path / sync
        with DurableMemory.begun(folder, SETTINGS, Drawn(), sync) as memory:
            for number in range(count):
                carry_out(memory, number)
                synced, journal = memory.journal.synced, memory.journal.file
                whole = journal.read_bytes()
                (tmp_path / "copy").write_bytes(whole[:synced])
                assert len(list(records(tmp_path / "copy"))) == number + 1


def test_a_change_that_is_interrupted_ends_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the folder, but may be half carried out here: only opening again tells."""
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        carry_out(memory, 0)

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(memory._facts, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            carry_out(memory, 2)
        monkeypatch.undo()
        with pytest.raises(UserError, match="takes no further change, as a change was interrupted"):
            carry_out(memory, 2)


def test_a_snapshot_is_read_and_never_written_to(texts: TextEncoder, tmp_path: Path) -> None:
    snapshot = tmp_path / "index"
    filled(texts, BASE).snapshot(snapshot)
    before = files(snapshot)
    with pytest.raises(UserError, match=r"index: a snapshot, which is only read; name another folder"):
        DurableMemory.begun(snapshot, memory_settings(), texts)
    start = KnowledgeMemory.open(snapshot, memory_settings(), texts)
    with DurableMemory.begun(tmp_path / "mine", memory_settings(), texts, start=start) as memory:
        assert held(memory) == set(BASE)
        memory.delete(BASE[:1])
    assert files(snapshot) == before
    assert held(KnowledgeMemory.open(tmp_path / "mine", memory_settings(), texts)) == set(BASE[1:])


def test_another_encoder_is_refused(texts: TextEncoder, tmp_path: Path) -> None:
    written(tmp_path, 1)
    with pytest.raises(UserError, match="its vectors are from the encoder drawn, not tiny-bert; choose that"):
        KnowledgeMemory.open(tmp_path, memory_settings(), texts)


def test_a_lost_manifest_loses_nothing_else(tmp_path: Path) -> None:
    written(tmp_path, 3)
    manifest = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").unlink()
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"manifest.json: missing, though journal-000001 holds changes"):
        DurableMemory.begun(tmp_path, SETTINGS, Drawn())
    assert {**files(tmp_path), "lock": b""} == {**before, "lock": b""}
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert held(reopened(tmp_path)) == expected(3)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"version": 2}', b'{"version": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    written(tmp_path, 1)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest.json: damaged .* \(it holds base-000001\)"):
        reopened(tmp_path)


def test_verify_finds_a_changed_byte_of_the_snapshot(tmp_path: Path) -> None:
    written(tmp_path, 5)
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        memory.merge()
        carry_out(memory, 5)
    found = verify(tmp_path, SETTINGS, Drawn())
    assert (found.facts, found.generation, found.changes) == (len(expected(6)), 2, 1)
    for file in sorted((tmp_path / "base-000002").iterdir()):
        whole = file.read_bytes()
        if not whole:
            continue
        place = len(whole) // 2
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=rf"{file.name}: damaged \(its checksum differs\); restore"):
            verify(tmp_path, SETTINGS, Drawn())
        file.unlink()
        with pytest.raises(UserError, match=r"can't be read .* restore the folder"):
            verify(tmp_path, SETTINGS, Drawn())
        with pytest.raises(
            UserError, match=rf"{file.name}: can't be read \(.+\); restore the folder from a copy"
        ):
            reopened(tmp_path)
        file.write_bytes(whole)
    (tmp_path / "journal-000002").unlink()
    with pytest.raises(UserError, match=r"journal-000002: can't be (read|opened)"):
        reopened(tmp_path)


def test_bulk_rows_are_kept_too(texts: TextEncoder, tmp_path: Path) -> None:
    with DurableMemory.begun(tmp_path, memory_settings(), texts) as memory:
        memory.upsert([fact(key) for key in BASE])
        memory.append(np.array([[1, 0, 0]]))
        now = held(memory)
    assert len(now) == 4
    assert held(KnowledgeMemory.open(tmp_path, memory_settings(), texts)) == now


def test_a_hub_of_many_facts_is_written_searched_and_reopened(tmp_path: Path) -> None:
    relations, tails = 300, 334
    facts = [
        Fact("hub", f"r{i}", f"t{j}", "Hub", f"relation {i}", f"tail {j}")
        for i in range(relations)
        for j in range(tails)
    ]
    with DurableMemory.begun(tmp_path, SETTINGS, Drawn()) as memory:
        assert len(memory.upsert(facts).facts) == len(facts) == 100_200
        memory.upsert([Fact("hub", "r0", "t0")], replace=True)
        query = ask(memory.encoder, 2)
        before = memory.search(query)
        assert len(memory) == 100_200 - tails + 1
    again = reopened(tmp_path)
    assert torch.equal(again.search(query).scores, before.scores)
    assert len(again) == len(memory)


def stressed(folder: Path, seconds: float) -> tuple[int, int]:  # noqa: C901 - the work of each thread
    """Let four threads write pairs of facts and three search until `seconds` are over; return how often.

    The two facts of a pair come and go together, so a search that sees one without the other saw half a
    change.
    """
    memory = Threaded.begun(folder, memory_settings(entities=100, N=400), Drawn(), "group")
    everything = [
        Fact(f"h{i}", f"r{j}", f"t{k}", f"head {i}", f"relation {j}", f"tail {k}")
        for i in range(4)
        for j in range(6)
        for k in range(2)
    ]
    memory.upsert(everything)
    ends = time.monotonic() + seconds
    problems: list[BaseException] = []
    written, searched = [0] * 4, [0] * 3
    last: dict[tuple[int, int], bool] = {}

    def watched(work: Callable[[int], None], number: int) -> None:
        try:
            while time.monotonic() < ends and not problems:
                work(number)
        except BaseException as error:
            problems.append(error)

    def write(number: int) -> None:
        draw = random.Random(written[number])
        relation = draw.randrange(6)
        pair = [f for f in everything if (f.head, f.relation) == (f"h{number}", f"r{relation}")]
        held = memory.find(*pair[0].key) is not None
        memory.delete([f.key for f in pair]) if held else memory.upsert(pair)
        last[number, relation] = not held
        written[number] += 1
        if number == 0 and written[0] % 50 == 0:
            memory.begin_merge() if written[0] % 100 else memory.merge()

    def search(number: int) -> None:
        rows = memory.search(ask(memory.encoder, 1, seed=searched[number])).facts[0].tolist()
        found = [memory.fact(row).key for row in rows if row >= 0]
        tails: dict[tuple[str, str], int] = {}
        for head, relation, _ in found:
            tails[head, relation] = tails.get((head, relation), 0) + 1
        assert set(tails.values()) <= {2}, f"half a change: {tails}"
        searched[number] += 1

    threads = [threading.Thread(target=watched, args=(write, number)) for number in range(4)]
    threads += [threading.Thread(target=watched, args=(search, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    memory.close()
    assert not problems, problems
    again = KnowledgeMemory.open(folder, memory.settings, Drawn())
    assert held(again) == held(memory)
    for (number, relation), holds in last.items():
        assert (again.find(f"h{number}", f"r{relation}", "t0") is not None) == holds
    return sum(written), sum(searched)


def test_threads_write_and_search_at_once(tmp_path: Path) -> None:
    written, searched = stressed(tmp_path, 3)
    assert min(written, searched) > 0


@pytest.mark.soak
def test_threads_write_and_search_at_once_for_long(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    written, searched = stressed(tmp_path, STRESS)
    assert min(written, searched) > 0
    for name, value in (
        ("stress_seconds", STRESS),
        ("stress_writes", written),
        ("stress_searches", searched),
    ):
        record_property(name, value)
