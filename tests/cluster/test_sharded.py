"""A memory in shards is one memory: the same facts, scores and order, whatever was changed before."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.sharded import ShardedMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Key
from pipeline.memory.store import KnowledgeMemory
from tests.cluster.clusters import NAMES, NOUNS, cluster, fact, same_answers, same_but_for_ties
from tests.memory.small import ask
from tests.tiny import memory_settings

DISTINCT = [f"{name} {'the second' if i == 4 else ''}".strip() for i, name in enumerate(NAMES)]
ENTITY = st.sampled_from([f"Q{i}" for i in range(len(NAMES))])
KEYS = st.tuples(ENTITY, st.sampled_from([f"P{i}" for i in range(len(NOUNS))]), ENTITY)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "replace", "delete"]), st.lists(KEYS, min_size=1, max_size=8)
    ),
    min_size=1,
    max_size=4,
)
Step = tuple[str, list[Key]]


def change(memory: KnowledgeMemory | ShardedMemory, step: Step, names: list[str]) -> tuple[list[Key], ...]:
    """Change a memory; return the keys that its receipt names."""
    kind, facts = step
    if kind == "delete":
        held = [key for key in dict.fromkeys(facts) if memory.find(*key) is not None]
        receipt = memory.delete(held)
    else:
        receipt = memory.upsert([fact(key, names) for key in facts], replace=kind == "replace")
    rows = receipt.facts, sorted(receipt.superseded), receipt.begun, receipt.ended, list(receipt.lost)
    found = tuple([memory.key(row) for row in part] for part in rows)
    return *found[:1], *map(sorted, found[1:]), [(str(receipt.entities), str(receipt.relations), "")]


DRAWN = {
    "shards": st.sampled_from([1, 2, 5]),
    "layout": st.sampled_from(["factored", "slot"]),
    "steps": STEPS,
    "hops": st.sampled_from([1, 2]),
    "sizes": st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)),
    "seed": st.integers(0, 99),
}


def compared(
    texts: TextEncoder,
    shards: int,
    layout: str,
    steps: list[Step],
    hops: int,
    sizes: tuple[int, int, int],
    seed: int,
) -> None:
    """Hold that a memory in shards finds what one memory finds after the same changes."""
    chosen = memory_settings(layout=layout, entities=sizes[0], N=sizes[1], k=1, beam=sizes[2])
    single = KnowledgeMemory(chosen, texts)
    with TemporaryDirectory() as folder:
        made = cluster(Path(folder), chosen, texts, shards)
        for step in steps:
            assert change(single, step, DISTINCT) == change(made.memory, step, DISTINCT)
            assert len(single) == len(made.memory)
            query = ask(texts, 3, seed, hops)
            found, others = single.search(query), made.memory.search(query)
            same_answers(single, found, made.memory, others)
            scored = made.memory.score(query, others.facts, others.via)
            same_answers(single, single.score(query, found.facts, found.via), made.memory, scored)
            assert torch.equal(single.keys(found.facts), made.memory.keys(others.facts))
        made.close()


@settings(max_examples=30, deadline=None)
@given(**DRAWN)
def test_any_search_finds_what_one_memory_finds_in_its_order(texts: TextEncoder, **drawn: Any) -> None:
    compared(texts, **drawn)


@pytest.mark.soak
@settings(max_examples=1000, deadline=None)
@given(**DRAWN)
def test_a_thousand_searches_find_what_one_memory_finds(texts: TextEncoder, **drawn: Any) -> None:
    compared(texts, **drawn)


@settings(max_examples=15, deadline=None)
@given(
    shards=st.sampled_from([1, 2, 5]),
    layout=st.sampled_from(["factored", "slot"]),
    steps=STEPS,
    hops=st.sampled_from([1, 2]),
    n=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_names_that_are_alike_only_change_the_order_of_what_scores_alike(
    texts: TextEncoder, shards: int, layout: str, steps: list[Step], hops: int, n: int, seed: int
) -> None:
    chosen = memory_settings(layout=layout, entities=100, N=100, k=1, beam=100)
    single = KnowledgeMemory(chosen, texts)
    with TemporaryDirectory() as folder:
        made = cluster(Path(folder), chosen, texts, shards)
        for step in steps:
            change(single, step, NAMES)
            change(made.memory, step, NAMES)
        query = ask(texts, 3, seed, hops)
        same_but_for_ties(single, single.search(query, n), made.memory, made.memory.search(query, n))
        made.close()
