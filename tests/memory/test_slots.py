import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.slots import search
from pipeline.memory.store import KnowledgeMemory
from tests.memory.bases import ENTITIES, RELATIONS, TRIPLES, Triple, built, rows
from tests.memory.small import ask
from tests.tiny import memory_settings

CROWDED = st.tuples(
    st.integers(0, 1), st.integers(RELATIONS - 2, RELATIONS - 1), st.integers(0, ENTITIES - 1)
)
"""Facts of few slots, whose relations are twins."""


def remembered(texts: TextEncoder, facts: np.ndarray, seed: int, looked_at: int) -> KnowledgeMemory:
    """A memory whose ids are those of a base of `facts`; the last two entities, and relations, are twins."""
    memory = KnowledgeMemory(memory_settings(entities=looked_at), texts)
    generator = torch.Generator().manual_seed(seed)
    for names, size in ((memory.entities, ENTITIES), (memory.relations, RELATIONS)):
        vectors = torch.randn(size, texts.dimension, generator=generator)
        vectors[-1] = vectors[-2]
        keys = [f"{size}/{i}" for i in range(size)]
        names.restore(keys, keys, torch.nn.functional.normalize(vectors, dim=-1))
    memory.append(facts)
    return memory


def given_heads(memory: KnowledgeMemory, query: Query) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a search of slots is given: heads, how near they are, log-probabilities of relations."""
    near, places = memory.arrangement.searcher.search(query.key, memory.settings.entities)
    logits = query.relation.float() @ memory.relations.vectors.float().T
    return memory.adjacency.by_head.filled[places], near, torch.log_softmax(logits, dim=-1)


@settings(max_examples=80, deadline=None)
@given(
    facts=st.lists(TRIPLES, max_size=60) | st.lists(CROWDED, max_size=60),
    data=st.data(),
    seed=st.integers(0, 99),
    n=st.integers(1, 9),
    looked_at=st.integers(1, ENTITIES),
    hub=st.sampled_from([0, 3, 100]),
)
def test_facts_and_scores_are_those_of_the_memory(
    tmp_path_factory: pytest.TempPathFactory,
    texts: TextEncoder,
    facts: list[Triple],
    data: st.DataObject,
    seed: int,
    n: int,
    looked_at: int,
    hub: int,
) -> None:
    base, _ = built(tmp_path_factory.mktemp("base") / "base", [rows(facts)])
    every = base.triples(np.arange(len(base)))
    memory = remembered(texts, every, seed, looked_at)
    dead = sorted(data.draw(st.sets(st.integers(0, len(base) - 1)))) if len(base) else []
    memory._facts.remove(dead)
    query = ask(texts, 3, seed)
    right = memory.search(query, n)
    heads, near, shares = given_heads(memory, query)
    weight = memory.settings.relation_weight
    found = search(base, heads, near, shares, weight, n, np.array(dead, np.int64), hub)
    for left, same in zip(found.candidates, right, strict=True):
        assert torch.equal(left, same)
    for question in range(3):
        held = [row for row in right.facts[question].tolist() if row >= 0]
        owners = heads[question][found.places[question, : len(held)]].tolist()
        assert owners == every[held, 0].tolist()
        sizes = {head: int((memory.alive & (every[:, 0] == head)).sum()) for head in heads[question].tolist()}
        hubs = [head for head in sizes if int((every[:, 0] == head).sum()) > max(hub, n)]
        assert found.left_out[question] == sum(max(0, sizes[head] - n) for head in hubs)


def test_heads_that_are_not_there_give_no_fact(tmp_path_factory: pytest.TempPathFactory) -> None:
    base, _ = built(tmp_path_factory.mktemp("base") / "base", [rows([(0, 0, 1), (1, 1, 2)])])
    heads = torch.tensor([[-1, 0], [1, 0], [-1, -1]])
    near = torch.tensor([[0.0, 1.0], [-torch.inf, 2.0], [0.0, 0.0]])
    found = search(base, heads, near, torch.zeros(3, RELATIONS), 1.0, 2)
    assert found.candidates.facts.tolist() == [[0, -1], [0, -1], [-1, -1]]
    assert found.candidates.scores.tolist() == [[1, -torch.inf], [2, -torch.inf], [-torch.inf] * 2]
    assert found.places.tolist() == [[1, 0], [1, 0], [0, 0]]


def test_of_a_hub_the_best_slots_are_looked_into(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One head has 6,000 facts of each of three relations; dead ones are skipped."""
    facts = np.array([(0, relation, tail) for relation in range(3) for tail in range(6000)])
    base, _ = built(tmp_path_factory.mktemp("base") / "base", [facts], 6000, 3)
    shares = torch.log_softmax(torch.tensor([[0.0, 2.0, 1.0]]), dim=-1)
    dead = np.concatenate([np.arange(6000, 9000), np.arange(12_100, 12_200), np.arange(13_000, 13_090)])
    found = search(base, torch.tensor([[0]]), torch.tensor([[1.0]]), shares, 0.5, 4000, dead)
    assert found.candidates.facts[0].tolist() == [
        *range(9000, 12_100),
        *range(12_200, 13_000),
        *range(13_090, 13_190),
    ]
    assert found.left_out.tolist() == [18_000 - len(dead) - 4000]
