"""Copies that are actors of a real Ray: one is killed, questions and changes go on, and it catches up."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.__main__ import run
from pipeline.cluster.actors import NAMESPACE, Address, name_of, opened, running
from pipeline.cluster.sharded import ShardedMemory
from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Key
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder
from tests.cluster.clusters import fact, same_answers
from tests.memory.small import ask
from tests.tiny import memory_settings

FACTS: list[Key] = [(f"Q{i}", f"P{i % 4}", f"Q{(3 * i + 1) % 8}") for i in range(8) if i != 4]
LATER: list[Key] = [(f"Q{i}", f"P{(i + 1) % 4}", f"Q{(5 * i + 2) % 8}") for i in range(8) if i != 4]
CHOSEN = memory_settings(N=50, entities=50)

pytestmark = pytest.mark.xdist_group("ray")


def kill(ray: Any, name: str) -> None:
    """End the process of an actor as a machine that fails does."""
    actor = ray.get_actor(name, NAMESPACE)
    os.kill(ray.get(actor.process.remote()), signal.SIGKILL)


def mended(memory: ShardedMemory) -> None:
    """Wait until the copies that died are back, which nobody has to ask for."""
    ends = time.monotonic() + 60
    while any(len(shard.members) < 2 for shard in memory.shards) and time.monotonic() < ends:
        time.sleep(0.1)
    assert [sorted(shard.members) for shard in memory.shards] == [[0, 1], [0, 1]]


def test_actors_are_one_memory_and_outlive_a_killed_one(
    ray: Any, encoder: Encoder, texts: TextEncoder, tmp_path: Path
) -> None:
    place = ["--folder", str(tmp_path), "--shards", "2", "--replication", "2"]
    names = [name_of("facts", i, j) for i in range(2) for j in range(2)]
    assert run(["start", "facts", *place], CHOSEN, encoder) == {"running": names}
    assert running("facts") == {0: [0, 1], 1: [0, 1]}
    single, memory = KnowledgeMemory(CHOSEN, texts), opened(Address("facts", "auto"), CHOSEN, texts)
    for one in (single, memory):
        one.upsert([fact(key) for key in FACTS])
    query = ask(texts, 3, hops=2)
    same_answers(single, single.search(query), memory, memory.search(query))

    kill(ray, name_of("facts", 0, 0))
    same_answers(single, single.search(query), memory, memory.search(query))
    for one in (single, memory):
        one.upsert([fact(key) for key in LATER])
        one.delete(FACTS[:2])
    same_answers(single, single.search(query), memory, memory.search(query))

    mended(memory)
    kill(ray, name_of("facts", 0, 1))  # now only the one that returned knows what was acknowledged
    found = memory.search(query)
    ours, theirs = single.search(query), found
    assert {single.key(row) for row in ours.facts[0].tolist() if row >= 0} == {
        memory.key(row) for row in theirs.facts[0].tolist() if row >= 0
    }
    assert len(memory) == len(single) == len(FACTS) + len(LATER) - 2
    with pytest.raises(UserError, match="comes without a name"):
        memory.upsert([type(fact(FACTS[0]))("Q77", "P0", "Q1")])
    told = run(["status", "facts"], CHOSEN, encoder)["copies"]
    assert list(told) == names
    assert told["facts/1/0"] == told["facts/1/1"]
    assert told["facts/1/0"]["members"] == (0, 1)
    assert run(["stop", "facts"], CHOSEN, encoder) == {"ended": 4}
    with pytest.raises(UserError, match="no memory 'facts' runs on this Ray cluster"):
        run(["status", "facts"], CHOSEN, encoder)


def test_a_command_that_makes_no_sense_says_why(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shards must be at least 1, not 0"):
        run(["split", "nowhere", "--folder", str(tmp_path), "--shards", "0"], CHOSEN, encoder)
    with pytest.raises(UserError, match="nowhere"):
        run(["split", "nowhere", "--folder", str(tmp_path)], CHOSEN, encoder)


def test_an_address_names_a_memory() -> None:
    assert Address.parsed("models/index") is None
    assert Address.parsed("cluster:facts") == Address("facts", "auto")
    assert Address.parsed("cluster:facts@head:6379") == Address("facts", "head:6379")
    with pytest.raises(UserError, match="expected cluster:NAME"):
        Address.parsed("cluster:@head:6379")
