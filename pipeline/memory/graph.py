"""Between the tables of a graph and the memory: both know a fact by its stable key."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.kg.facts import Graph, Ids
from pipeline.memory.facts import Fact
from pipeline.memory.store import KnowledgeMemory


def facts_of_graph(graph: Graph, ids: Iterable[int]) -> list[Fact]:
    """Return facts of the tables in the form that a memory takes, names included."""
    keys, relation_keys = graph.entities["key"].to_pylist(), graph.relations["key"].to_pylist()
    return [
        Fact(keys[h], relation_keys[r], keys[t], graph.labels[h], graph.nouns[r], graph.labels[t])
        for h, r, t in (graph.triples[i].tolist() for i in ids)
    ]


class Correspondence:
    """Which fact of the tables is which fact of a memory.

    Args:
        graph: the tables.
        memory: the memory; facts that it gets later are found too.
    """

    def __init__(self, graph: Graph, memory: KnowledgeMemory) -> None:
        self._memory = memory
        self._triples = graph.triples
        self._keys: list[str] = graph.entities["key"].to_pylist()
        self._relation_keys: list[str] = graph.relations["key"].to_pylist()
        self._entity = {key: i for i, key in enumerate(self._keys)}
        self._relation = {key: i for i, key in enumerate(self._relation_keys)}
        self._id: dict[tuple[int | None, ...], int] = {
            tuple(triple): i for i, triple in enumerate(graph.triples.tolist())
        }

    def row(self, fact: int) -> int | None:
        """Return the memory's id of a fact of the tables, None where the memory doesn't hold it now."""
        head, relation, tail = self._triples[fact].tolist()
        return self._memory.find(self._keys[head], self._relation_keys[relation], self._keys[tail])

    def fact(self, row: int) -> int:
        """Return the tables' id of a fact of the memory, -1 where the tables don't hold it."""
        head, relation, tail = self._memory.fact(row).key
        triple = self._entity.get(head), self._relation.get(relation), self._entity.get(tail)
        return self._id.get(triple, -1)


def replay(graph: Graph, memory: KnowledgeMemory, first: int, last: int) -> tuple[int, int]:
    """Move the memory from snapshot `first` to `last` by the changes between them, in their order.

    Returns:
        How many facts were deleted and how many written.
    """
    columns = [graph.changes[name].to_pylist() for name in ("snapshot", "op", "fact")]
    changes = [(op, fact) for number, op, fact in zip(*columns, strict=True) if first < number <= last]
    deleted = written = 0
    start = 0
    while start < len(changes):  # runs of the same operation go in one call
        op = changes[start][0]
        end = start
        while end < len(changes) and changes[end][0] == op:
            end += 1
        run: Sequence[Fact] = facts_of_graph(graph, [fact for _, fact in changes[start:end]])
        if op == "delete":
            deleted += len(memory.delete([fact.key for fact in run]).facts)
        else:
            written += len(memory.upsert(run).facts)
        start = end
    return deleted, written


def live_ids(graph: Graph, snapshot: int) -> Ids:
    """Return the ids of the facts that hold in `snapshot`."""
    return np.flatnonzero(graph.live(snapshot))
