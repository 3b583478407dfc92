"""Memories in shards, whose copies are in this process, and single ones beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.cluster.local import Direct, folder_of
from pipeline.cluster.shard import Shard
from pipeline.cluster.sharded import ShardedMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory

NAMES = ["Aland", "Borland", "Paris", "Lyon", "Aland", "euro", "Cland", "mark"]
"""Two are twins."""
NOUNS = ["capital", "official language", "anthem", "currency"]


def fact(key: Key, names: Sequence[str] = NAMES) -> Fact:
    """Return the fact with that key and the names that go with it."""
    head, relation, tail = key
    return Fact(*key, names[int(head[1:])], NOUNS[int(relation[1:])], names[int(tail[1:])])


@dataclass
class Cluster:
    """A memory in shards, with the copies of each."""

    memory: ShardedMemory
    copies: list[list[Direct]]

    def close(self) -> None:
        """End every copy."""
        for own in self.copies:
            for copy in own:
                copy.end()


def cluster(
    folder: Path, settings: Memory, texts: TextEncoder, shards: int, replication: int = 1, sync: str = "none"
) -> Cluster:
    """Return a memory in shards below `folder`, begun or opened again."""
    copies = [
        [Direct(folder_of(folder, i, j), settings, texts, sync) for j in range(replication)]
        for i in range(shards)
    ]
    parts = [Shard(i, own) for i, own in enumerate(copies)]
    return Cluster(ShardedMemory(parts, settings, texts), copies)


def keys(memory: KnowledgeMemory | ShardedMemory, rows: Sequence[int]) -> list[Key | None]:
    """Return the stable keys of facts, None for none."""
    return [memory.key(row) if row >= 0 else None for row in rows]


def same_answers(
    single: KnowledgeMemory, left: Candidates, sharded: ShardedMemory, right: Candidates
) -> None:
    """Hold that both found the same facts in the same order, with the same scores, by the same ways."""
    assert left.facts.shape == right.facts.shape
    for one, other in zip(left[1:4], right[1:4], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for column in (0, 4):
        for ours, theirs in zip(left[column].tolist(), right[column].tolist(), strict=True):
            assert keys(single, ours) == keys(sharded, theirs)


def same_but_for_ties(
    single: KnowledgeMemory, left: Candidates, sharded: ShardedMemory, right: Candidates
) -> None:
    """Hold that both found facts with the same scores, and the same facts wherever no other scores alike."""
    torch.testing.assert_close(left.scores, right.scores, atol=1e-5, rtol=1e-5)
    for question, scores in enumerate(left.scores.tolist()):
        ours = keys(single, left.facts[question].tolist())
        theirs = keys(sharded, right.facts[question].tolist())
        for score in set(scores):
            tied = [i for i, other in enumerate(scores) if abs(other - score) < 1e-4]
            if len(scores) - 1 not in tied:  # what is cut off scores alike
                assert {ours[i] for i in tied} == {theirs[i] for i in tied}
