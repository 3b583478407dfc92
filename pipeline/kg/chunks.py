"""Facts in the order in which they come: by snapshot, or by a drawn order of entities where there is none."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.kg.facts import Graph, Ids


@dataclass(frozen=True)
class Chunk:
    """What changes at one time."""

    added: Ids
    """Facts that come, [n, 3]."""
    asked: Ids
    """Facts that come to be true, are kept apart and asked for: [q, 3]."""
    removed: Ids
    """Facts that go, [m, 3]; some may have been asked for instead of added."""


def arriving(graph: Graph, start: float, chunks: int, asked: float, seed: int) -> tuple[Ids, list[Chunk]]:
    """Return the facts at the start and the chunks that follow, over the ids of the tables.

    Args:
        graph: with snapshots, they are the chunks; with the base alone, its entities come in random order,
            each with its facts to those that are there.
        start: share of the entities at the start, in (0, 1); not read where there are snapshots.
        chunks: how many; with snapshots, at most.
        asked: share of what comes that is asked for, in (0, 1).
        seed: of the order and of what is asked for.

    Raises:
        ValueError: there is nothing at the start, or a chunk brings no fact that could be asked for.
    """
    generator = np.random.default_rng(seed)
    if graph.last_snapshot:
        times = [graph.live(at) for at in range(min(graph.last_snapshot, chunks) + 1)]
        first = graph.triples[times[0]]
        came = [graph.triples[now & ~before] for before, now in itertools.pairwise(times)]
        went = [graph.triples[before & ~now] for before, now in itertools.pairwise(times)]
    else:
        facts = graph.triples[graph.live(0)]
        entities = np.unique(facts[:, [0, 2]])
        late = generator.permutation(entities)[round(start * len(entities)) :]
        when = np.zeros(graph.entities.num_rows, dtype=np.int64)
        for number, group in enumerate(np.array_split(late, chunks), start=1):
            when[group] = number
        at = when[facts[:, [0, 2]]].max(axis=1)
        first, came = facts[at == 0], [facts[at == number] for number in range(1, chunks + 1)]
        went = [facts[:0]] * chunks
    found = []
    for added, removed in zip(came, went, strict=True):
        order = generator.permutation(len(added))
        count = round(asked * len(added))
        found.append(Chunk(added[np.sort(order[count:])], added[np.sort(order[:count])], removed))
    if not len(first) or not all(len(chunk.asked) for chunk in found):
        raise ValueError("a chunk brings no fact to ask for, or there is none at the start")
    return first, found


def present(facts: Ids, some: Ids) -> NDArray[np.bool_]:
    """Return which of `facts` are among `some`."""
    listed = {tuple(fact) for fact in some.tolist()}
    return np.array([tuple(fact) in listed for fact in facts.tolist()], dtype=np.bool_)
