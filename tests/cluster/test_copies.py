"""Copies of a shard: what was acknowledged outlives one of them, and one that returns catches up."""

import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.local import Direct, fill, folder_of
from pipeline.cluster.mending import Mending
from pipeline.cluster.messages import FencedError, GoneError
from pipeline.cluster.shard import Shard
from pipeline.cluster.sharded import ShardedMemory
from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Key
from pipeline.memory.store import KnowledgeMemory
from tests.cluster.clusters import Cluster, cluster, fact, same_answers
from tests.memory.small import ask
from tests.tiny import memory_settings

FACTS: list[Key] = [(f"Q{i}", f"P{i % 4}", f"Q{(3 * i + 1) % 8}") for i in range(8)]
LATER: list[Key] = [(f"Q{i}", f"P{(i + 1) % 4}", f"Q{(5 * i + 2) % 8}") for i in range(8)]
CHOSEN = memory_settings(N=50, entities=50)


def filled(folder: Path, texts: TextEncoder, shards: int = 2) -> Cluster:
    made = cluster(folder, CHOSEN, texts, shards, replication=2)
    made.memory.upsert([fact(key) for key in FACTS])
    return made


def held(memory: ShardedMemory) -> set[Key]:
    rows = [row for i in range(8) for row in memory.facts_of(memory.entities.row(f"Q{i}"))]
    return {memory.key(row) for row in rows}


def alike(made: Cluster, texts: TextEncoder) -> None:
    """Hold that all copies of each shard hold the same."""
    for own in made.copies:
        first, *others = [copy.copy for copy in own if copy.copy is not None]
        for other in others:
            assert first.standing() == other.standing()
            ours, theirs = first.held, other.held
            assert {*map(ours.key, ours.page(0, 99))} == {*map(theirs.key, theirs.page(0, 99))}
            assert torch.equal(ours.entities.vectors, theirs.entities.vectors)


def test_every_copy_has_a_change_before_it_is_acknowledged(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    alike(made, texts)
    made.close()
    for shard in range(2):
        for copy in range(2):
            folder = folder_of(tmp_path, shard, copy) / "memory"
            memory = KnowledgeMemory.open(folder, CHOSEN, texts)
            own = {memory.key(row) for row in memory.page(0, 99)}
            assert own == {key for key in FACTS if key in own}
            assert own


@pytest.mark.parametrize("which", [0, 1])
def test_questions_and_changes_go_on_without_a_copy(texts: TextEncoder, tmp_path: Path, which: int) -> None:
    made = filled(tmp_path, texts)
    query = ask(texts, 4)
    before = made.memory.search(query)
    for own in made.copies:
        own[which].end()
    same_answers_of(made.memory, before, made.memory.search(query))
    made.memory.upsert([fact(key) for key in LATER])
    assert held(made.memory) == {*FACTS, *LATER}
    made.close()


def same_answers_of(memory: ShardedMemory, before: object, after: object) -> None:
    same_answers(memory, before, memory, after)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("merged", [False, True])
def test_a_copy_that_returns_holds_what_was_acknowledged_meanwhile(
    texts: TextEncoder, tmp_path: Path, which: int, merged: bool
) -> None:
    made = filled(tmp_path, texts)
    for own in made.copies:
        own[which].end()
    made.memory.upsert([fact(key) for key in LATER])
    made.memory.delete(FACTS[:3])
    if merged:
        for own in made.copies:
            own[1 - which].copy.held.merge()
    for own in made.copies:
        own[which].start()
    with pytest.raises(GoneError):
        made.copies[0][which].copy.memory()  # it doesn't count yet
    assert made.memory.mend() == {0: [which], 1: [which]}
    alike(made, texts)
    assert made.memory.mend() == {}
    for own in made.copies:
        own[1 - which].end()
    assert held(made.memory) == {*FACTS, *LATER} - set(FACTS[:3])
    made.memory.upsert([fact(FACTS[0])])
    assert FACTS[0] in held(made.memory)
    made.close()


def test_a_copy_that_died_between_changes_is_let_in_by_itself(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    Mending(made.memory.shards, every=0.01)
    for own in made.copies:
        own[0].end()
        own[0].start()
    made.memory.search(ask(texts, 1))  # which notices it
    ends = time.monotonic() + 20
    while any(shard.doubted for shard in made.memory.shards) and time.monotonic() < ends:
        time.sleep(0.01)
    for own in made.copies:
        assert own[0].copy.memory() is not None, "it counts again"
    alike(made, texts)
    made.close()


def test_a_record_that_no_other_copy_got_is_given_up(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts, 1)
    [[first, _]] = made.copies
    lost = fact(("Q0", "P3", "Q5"))
    first.copy.held.upsert([lost])  # as if it died between its own journal and the other copy
    first.end()
    made.memory.upsert([fact(LATER[0])])
    made.memory.upsert([fact(LATER[1])])
    first.start()
    assert made.memory.mend() == {0: [0]}
    alike(made, texts)
    assert held(made.memory) == {*FACTS, *LATER[:2]}
    made.close()


@pytest.mark.parametrize("which", [0, 1])
def test_a_copy_that_fails_to_write_is_left_out(texts: TextEncoder, tmp_path: Path, which: int) -> None:
    made = filled(tmp_path, texts, 1)
    [own] = made.copies
    own[which].copy.held.journal.refuse("its disk is full")
    made.memory.upsert([fact(LATER[0])])
    assert own[which].copy is None
    assert LATER[0] in held(made.memory)
    own[which].start()
    assert made.memory.mend() == {0: [which]}
    alike(made, texts)
    own[1 - which].end()
    made.memory.upsert([fact(LATER[1])])
    own[which].copy.held.journal.refuse("its disk is full")
    with pytest.raises(UserError, match="takes no further change, as its disk is full"):
        made.memory.upsert([fact(LATER[2])])
    assert LATER[1] in held(made.memory)
    made.close()


def test_a_refused_change_changes_nothing_in_any_shard(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    versions = [copy.copy.standing() for own in made.copies for copy in own]
    nameless = fact(LATER[0])
    wrong = [fact(key) for key in LATER] + [type(nameless)("Q99", "P0", "Q1")]
    with pytest.raises(UserError, match="the entity 'Q99' is new to the memory and comes without a name"):
        made.memory.upsert(wrong)
    with pytest.raises(UserError, match=r"Q0 \| P3 \| Q0'?: not in the memory"):
        made.memory.delete([*FACTS, ("Q0", "P3", "Q0")])
    with pytest.raises(UserError, match="no date"):
        made.memory.upsert([fact(LATER[1]), type(nameless)("Q1", "P0", "Q2", start="soon")])
    assert [copy.copy.standing() for own in made.copies for copy in own] == versions
    made.close()


def test_without_any_copy_a_question_is_refused_and_all_return(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    for copy in made.copies[1]:
        copy.end()
    with pytest.raises(UserError, match="shard 1 of the memory: no copy answers"):
        made.memory.search(ask(texts, 1))
    for copy in made.copies[1]:
        copy.start()
    assert made.memory.mend() == {1: [0, 1]}
    assert held(made.memory) == set(FACTS)
    made.close()


def test_another_opening_fences_the_one_before(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    again = ShardedMemory([Shard(i, own) for i, own in enumerate(made.copies)], CHOSEN, texts)
    with pytest.raises(FencedError, match="another process has opened the memory for writing"):
        made.memory.upsert([fact(LATER[0])])
    again.upsert([fact(LATER[0])])
    assert held(made.memory) == {*FACTS, LATER[0]}, "it still answers"
    made.close()


def test_a_reader_goes_over_to_copies_that_came_later(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts, 1)
    [own] = made.copies
    own[1].end()
    made.memory.upsert([fact(LATER[0])])
    reader = ShardedMemory([Shard(0, own, write=False)], CHOSEN, texts)
    own[1].start()
    assert made.memory.mend() == {0: [1]}
    own[0].end()
    assert held(reader) == {*FACTS, LATER[0]}
    with pytest.raises(UserError, match="the memory is open for reading"):
        reader.upsert([fact(LATER[1])])
    assert reader.mend() == {}
    made.close()


def test_a_stale_copy_alone_is_refused_unless_accepted(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts, 1)
    [[first, second]] = made.copies
    first.end()
    made.memory.upsert([fact(LATER[0])])
    second.end()
    first.start()
    with pytest.raises(UserError, match="copy 1 doesn't answer or is empty, and may know of later changes"):
        Shard(0, [first, second])
    Shard(0, [first, second], accept=True)
    made.close()


def test_a_memory_is_opened_again_as_it_was(texts: TextEncoder, tmp_path: Path) -> None:
    made = filled(tmp_path, texts)
    query = ask(texts, 4, hops=2)
    found = made.memory.search(query)
    names = [[made.memory.key(r) for r in row if r >= 0] for row in found.facts.tolist()]
    made.close()
    again = cluster(tmp_path, CHOSEN, texts, 2, replication=2)
    after = again.memory.search(query)
    torch.testing.assert_close(after.scores, found.scores, atol=1e-5, rtol=1e-5)
    assert [[again.memory.key(r) for r in row if r >= 0] for row in after.facts.tolist()] == names
    again.close()


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_a_memory_is_split_as_it_is(texts: TextEncoder, tmp_path: Path, layout: str) -> None:
    chosen = memory_settings(N=50, entities=50, layout=layout)
    single = KnowledgeMemory(chosen, texts)
    single.upsert([fact(key) for key in FACTS], on="2020")
    single.upsert([fact(key) for key in LATER], replace=True, on="2021")
    single.upsert([fact((f"Q{i}", f"P{i % 4}", "Q6")) for i in range(4)], replace=True, on="2022")
    assert sum(fill(single, tmp_path, 3, 2)) == len(single)
    with pytest.raises(UserError, match="is there already"):
        fill(single, tmp_path, 3, 2)
    made = cluster(tmp_path, chosen, texts, 3, replication=2)
    query = ask(texts, 4)
    assert made.memory.chronicle.on == single.chronicle.on
    for on in ("", "2020-06", "2021-06"):
        one, other = (single.as_of(on), made.memory.as_of(on)) if on else (single, made.memory)
        assert len(one) == len(other)
        found, others = one.search(query), other.search(query)
        torch.testing.assert_close(found.scores, others.scores, atol=1e-5, rtol=1e-5)
    key = FACTS[0]
    assert list(made.memory.periods(key)) == list(single.periods(key))
    assert sorted(made.memory.recorded(*key[:2])) == sorted(single.recorded(*key[:2]))
    made.close()


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_order_of_deaths_returns_and_changes_keeps_what_was_acknowledged(
    texts: TextEncoder, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    made = cluster(tmp_path_factory.mktemp("any"), CHOSEN, texts, 2, replication=2)
    expected: dict[Key, None] = {}
    made.memory.upsert([fact(key) for key in FACTS])
    expected |= dict.fromkeys(FACTS)
    for step in data.draw(
        st.lists(st.sampled_from(["write", "die", "return", "delete", "merge"]), max_size=10)
    ):
        shard, which = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
        own = made.copies[shard]
        if step == "write":
            key = data.draw(st.sampled_from(LATER))
            made.memory.upsert([fact(key)])
            expected[key] = None
        elif step == "delete" and expected:
            key = data.draw(st.sampled_from(sorted(expected)))
            made.memory.delete([key])
            del expected[key]
        elif (
            step == "die" and own[1 - which].copy is not None and len(made.memory.shards[shard].members) == 2
        ):
            own[which].end()
        elif step == "return" and own[which].copy is None:
            own[which].start()
            made.memory.mend()
        elif step == "merge" and own[which].copy is not None:
            own[which].copy.held.merge()
        assert held(made.memory) == set(expected)
    made.close()


def test_a_direct_copy_that_was_ended_is_gone(texts: TextEncoder, tmp_path: Path) -> None:
    copy = Direct(tmp_path, CHOSEN, texts, "none")
    copy.end()
    with pytest.raises(GoneError, match="ended"):
        copy.begin("standing").result()
