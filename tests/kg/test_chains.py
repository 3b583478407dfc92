"""Questions over two facts, over random graphs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.kg.chains import chains
from pipeline.kg.facts import Graph
from pipeline.kg.slots import Slots
from tests.kg.graphs import write_graph


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), wanted=st.integers(0, 40))
def test_a_pair_leads_from_one_answer_to_a_slot_of_it(tmp_path: Path, seed: int, wanted: int) -> None:
    graph = write_graph(tmp_path / f"{seed}-{wanted}", seed, linked=True)
    slots = Slots(graph, graph.nouns)
    live = graph.live(0)
    draw = np.random.default_rng(seed)
    first, second = (draw.random(len(slots.codes)) < 0.7 for _ in range(2))
    second &= slots.count(live) > 0
    starts, ends = chains(slots, first, second, live, wanted, 1.0, draw)
    assert len(starts) > 0 or wanted < 20
    assert len(starts) == len(ends) <= wanted
    assert len(set(starts.tolist())) == len(starts)
    assert first[starts].all()
    assert second[ends].all()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        (fact,) = slots.facts(start, live)
        assert graph.triples[fact, 2] == slots.heads[end]
        assert slots.heads[start] not in graph.triples[slots.facts(end, live), 2]


def test_a_cycle_and_a_slot_with_two_answers_lead_nowhere(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, 0)
    triples = [[0, 0, 1], [1, 0, 0], [2, 0, 1], [2, 0, 3], [3, 1, 4]]
    heads, relations, tails = (pa.array(column, pa.int64()) for column in zip(*triples, strict=True))
    columns = {"head": heads, "relation": relations, "tail": tails}
    small = Graph(graph.entities, graph.relations, pa.table(columns), graph.changes)
    slots = Slots(small, small.nouns)
    everything = np.ones(len(slots.codes), dtype=np.bool_)
    live = np.ones(len(triples), dtype=np.bool_)
    starts, _ = chains(slots, everything, everything, live, 10, 1.0, np.random.default_rng(0))
    assert not len(starts)  # 3 leads nowhere, 2 has two answers, 0 and 1 lead back
