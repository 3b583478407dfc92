from pathlib import Path

import pytest

from pipeline.kg.facts import Graph
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.graph import Correspondence, facts_of_graph, live_ids, replay
from pipeline.memory.store import KnowledgeMemory
from tests.kg.graphs import write_graph
from tests.memory.small import held
from tests.tiny import SmallWorld, memory_settings


def keys(graph: Graph, snapshot: int) -> set[tuple[str, str, str]]:
    return {fact.key for fact in facts_of_graph(graph, live_ids(graph, snapshot))}


@pytest.mark.parametrize("small", [True, False])
def test_replaying_the_changes_gives_the_last_snapshot(
    texts: TextEncoder, world: SmallWorld, small: bool, tmp_path: Path
) -> None:
    graph = world.graph if small else write_graph(tmp_path)
    memory = KnowledgeMemory(memory_settings(), texts)
    memory.upsert(facts_of_graph(graph, live_ids(graph, 0)))
    assert held(memory) == keys(graph, 0)
    deleted, written = replay(graph, memory, 0, graph.last_snapshot)
    assert held(memory) == keys(graph, graph.last_snapshot) != keys(graph, 0)
    ops = graph.changes["op"].to_pylist()
    assert (deleted, written) == (ops.count("delete"), ops.count("upsert"))
    assert replay(graph, memory, graph.last_snapshot, graph.last_snapshot) == (0, 0)


def test_names_are_those_of_the_tables(world: SmallWorld) -> None:
    [fact] = facts_of_graph(world.graph, [0])
    head, relation, tail = world.graph.triples[0].tolist()
    assert fact.head_label == world.graph.labels[head]
    assert fact.relation_noun == world.graph.nouns[relation] != ""
    assert fact.tail_label == world.graph.labels[tail]


def test_both_know_a_fact_by_its_key(texts: TextEncoder, world: SmallWorld) -> None:
    graph = world.graph
    memory = KnowledgeMemory.open(world.paths.index, memory_settings(), texts)
    known = Correspondence(graph, memory)
    live = graph.live(0)
    for fact in range(len(live)):
        row = known.row(fact)
        assert (row is not None) == live[fact]
        if row is not None:
            assert known.fact(row) == fact
    replay(graph, memory, 0, graph.last_snapshot)
    after = graph.live(graph.last_snapshot)
    assert [known.row(fact) is not None for fact in range(len(after))] == after.tolist()
    strange = memory.upsert([facts_of_graph(graph, [0])[0].__class__("X1", "P36", "X2", "One", "", "Two")])
    assert known.fact(strange.facts[0]) == -1
