"""Facts in the order in which they come: nothing is lost, by snapshot and by drawn order."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.kg.chunks import arriving, present
from tests.kg.graphs import write_graph


def rows(facts: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(fact) for fact in facts.tolist()}


@pytest.mark.parametrize("changes", [False, True])
def test_replaying_the_chunks_gives_the_last_snapshot(tmp_path: Path, changes: bool) -> None:
    graph = write_graph(tmp_path, linked=True, changes=changes)
    first, chunks = arriving(graph, start=0.5, chunks=3, asked=0.3, seed=0)
    now = rows(first)
    for chunk in chunks:
        assert rows(chunk.removed) <= now
        assert not (rows(chunk.added) | rows(chunk.asked)) & now
        assert len(chunk.asked) == round(0.3 * (len(chunk.asked) + len(chunk.added)))
        now = (now - rows(chunk.removed)) | rows(chunk.added) | rows(chunk.asked)
    assert now == rows(graph.triples[graph.live(graph.last_snapshot)])
    if not changes:
        assert len(chunks) == 3
        there = set(first[:, [0, 2]].ravel().tolist())
        for chunk in chunks:
            ends = np.concatenate([chunk.added, chunk.asked])[:, [0, 2]]
            assert all(not set(pair) <= there for pair in ends.tolist()), "each fact brings an entity"
            there |= set(ends.ravel().tolist())


def test_the_same_seed_gives_the_same_order_and_nothing_to_ask_is_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, changes=False)
    one, same, other = (arriving(graph, 0.5, 2, 0.3, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert rows(one) != rows(other)
    with pytest.raises(ValueError, match="no fact to ask for"):
        arriving(graph, 0.5, 2, 1e-6, 0)


def test_present_finds_rows() -> None:
    facts = np.array([[0, 1, 2], [2, 1, 0], [3, 0, 3]])
    assert present(facts, facts[[2, 0]]).tolist() == [True, False, True]
    assert present(facts[:0], facts).shape == (0,)
