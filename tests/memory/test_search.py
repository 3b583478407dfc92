import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Key, Query
from pipeline.memory.store import KnowledgeMemory
from tests.memory.small import KEY_LISTS, ask, fact, filled, slow_scores
from tests.tiny import memory_settings

LAYOUTS = ("factored", "slot")
BASE: list[Key] = [
    ("Q0", "P0", "Q2"),
    ("Q0", "P0", "Q3"),
    ("Q1", "P0", "Q2"),
    ("Q1", "P1", "Q5"),
    ("Q4", "P0", "Q3"),
]


def same(a: Candidates, b: Candidates) -> None:
    assert torch.equal(a.facts, b.facts)
    for left, right in zip(a[1:], b[1:], strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    keys=KEY_LISTS,
    data=st.data(),
    seed=st.integers(0, 99),
    n=st.integers(1, 9),
)
def test_the_search_equals_a_scan_of_every_fact(
    texts: TextEncoder, layout: str, keys: list[Key], data: st.DataObject, seed: int, n: int
) -> None:
    deleted = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    memory = filled(texts, keys, deleted, layout=layout)
    query = ask(texts, 3, seed)
    found = memory.search(query, n)
    assert found.facts.shape == found.scores.shape == (3, n)
    for question in range(3):
        slow = slow_scores(memory, query, question)
        facts, scores = found.facts[question].tolist(), found.scores[question].tolist()
        held = [row for row in facts if row >= 0]
        assert len(held) == len(set(held)) == min(n, len(slow))
        assert facts[len(held) :] == [-1] * (n - len(held))
        assert scores[len(held) :] == [-math.inf] * (n - len(held))
        assert scores[: len(held)] == pytest.approx([slow[row] for row in held], abs=1e-4)
        best = sorted(slow.values(), reverse=True)[: len(held)]
        assert scores[: len(held)] == pytest.approx(best, abs=1e-4)
        assert found.entity[question, len(held) :].abs().sum() == 0
        assert found.relation[question, len(held) :].abs().sum() == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_facts_of_a_slot_follow_each_other_in_the_order_of_their_ids(texts: TextEncoder, layout: str) -> None:
    keys = [("Q0", "P0", f"Q{tail}") for tail in (3, 5, 2, 1)] + [("Q1", "P1", "Q5")]
    memory = filled(texts, keys, layout=layout)
    for facts in memory.search(ask(texts, 20)).facts.tolist():
        assert [row for row in facts if 0 <= row < 4] == [0, 1, 2, 3]
        place = facts.index(0)
        assert facts[place : place + 4] == [0, 1, 2, 3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_search_gives_the_same_order_among_twins(texts: TextEncoder, layout: str) -> None:
    memory = filled(texts, BASE, layout=layout)  # Q0 and Q4 share their label
    query = ask(texts, 8)
    same(memory.search(query), memory.search(query))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_is_searched_as_its_questions_one_by_one(texts: TextEncoder, layout: str) -> None:
    memory = filled(texts, BASE, layout=layout)
    query = ask(texts, 70)
    found = memory.search(query)
    for question in (0, 63, 64, 69):
        same(
            memory.search(query.rows(question, question + 1)),
            Candidates(*(part[question : question + 1] for part in found)),
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_memory_finds_nothing(texts: TextEncoder, layout: str) -> None:
    new = filled(texts, [], layout=layout)
    emptied = filled(texts, BASE, BASE, layout=layout)
    for memory in (new, emptied):
        found = memory.search(ask(texts, 2), 4)
        assert found.facts.tolist() == [[-1] * 4] * 2
        assert found.scores.tolist() == [[-math.inf] * 4] * 2
        again = memory.score(ask(texts, 2), found.facts)
        assert again.scores.tolist() == [[-math.inf] * 4] * 2
        assert again.entity.abs().sum() == again.relation.abs().sum() == 0
        assert memory.keys(found.facts).shape == (2, 4, texts.dimension)
        assert memory.keys(found.facts).abs().sum() == 0


def test_no_question_gives_no_row(texts: TextEncoder) -> None:
    assert filled(texts, BASE).search(ask(texts, 0), 3).facts.shape == (0, 3)


def test_n_is_the_sections_unless_told(texts: TextEncoder) -> None:
    assert filled(texts, BASE, N=7).search(ask(texts, 1)).facts.shape == (1, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_score_gives_what_search_found_and_gradients(texts: TextEncoder, layout: str) -> None:
    memory = filled(texts, BASE, BASE[2:3], layout=layout)
    query = ask(texts, 5)
    found = memory.search(query)
    assert (found.facts == -1).any()
    asked = Query(query.key.clone().requires_grad_(), query.relation.clone().requires_grad_())
    again = memory.score(asked, found.facts)
    same(found, again)
    again.scores.masked_fill(found.facts < 0, 0.0).pow(2).sum().backward()
    assert asked.key.grad is not None
    assert asked.key.grad.isfinite().all()
    assert (asked.key.grad.abs().sum(dim=1) > 0).all()
    if layout == "factored":
        assert asked.relation.grad is not None
        assert asked.relation.grad.isfinite().all()
        assert (asked.relation.grad.abs().sum(dim=1) > 0).all()


def test_a_key_is_the_sum_of_the_vectors_of_head_and_relation(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    keys = memory.keys(torch.tensor([[0, 3, -1]]))
    for place, row in enumerate((0, 3)):
        head, relation, _ = memory.triples[row]
        right = memory.entities.vectors[head] + memory.relations.vectors[relation]
        torch.testing.assert_close(keys[0, place], right)
    assert keys[0, 2].abs().sum() == 0


def test_the_question_about_a_name_finds_its_facts_first(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    query = Query(texts.encode(["Borland"]) * 30, texts.encode(["official language"]) * 30)
    assert memory.search(query).facts[0, 0] == memory.find("Q1", "P1", "Q5")


def test_fewer_entities_are_looked_at_when_the_section_says_so(texts: TextEncoder) -> None:
    memory = filled(texts, BASE, entities=1)
    found = memory.search(ask(texts, 30)).facts
    for facts in found.tolist():
        assert len({memory.fact(row).head for row in facts if row >= 0}) <= 1


@pytest.mark.parametrize("backend", ["exact", "hnsw", "ivf"])
def test_an_entity_that_heads_no_fact_takes_no_place(texts: TextEncoder, backend: str) -> None:
    """The question is about Q2, which is a tail only, and then about Q1, whose facts are deleted."""
    memory = filled(texts, BASE, entities=1, backend=backend, lists=1, probes=1, links=16)
    vector = memory.entities.vectors[memory.entities.row("Q2")][None] * 30
    heads = {
        memory.fact(row).head for row in memory.search(Query(vector, vector)).facts[0].tolist() if row >= 0
    }
    assert len(heads) == 1
    assert heads < {"Q0", "Q1", "Q4"}
    borland = Query(texts.encode(["Borland"]) * 30, texts.encode(["capital"]) * 30)
    assert memory.search(borland).facts[0, 0] in memory.facts_of(memory.entities.row("Q1"))
    memory.delete(BASE[2:4])
    found = memory.search(borland).facts[0]
    assert memory.fact(int(found[0])).head in {"Q0", "Q4"}


@pytest.mark.parametrize("backend", ["hnsw", "ivf"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_approximate_backends_find_the_same_where_they_look_everywhere(
    texts: TextEncoder, layout: str, backend: str
) -> None:
    exact = filled(texts, BASE, layout=layout)
    other = filled(texts, BASE, layout=layout, backend=backend, lists=1, probes=1, links=16)
    query = ask(texts, 6)
    torch.testing.assert_close(other.search(query).scores, exact.search(query).scores, atol=1e-4, rtol=1e-4)
    other.upsert([fact(("Q5", "P2", "Q0"))])
    exact.upsert([fact(("Q5", "P2", "Q0"))])
    torch.testing.assert_close(other.search(query).scores, exact.search(query).scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 7, 512, 513, 10_000])
def test_a_tree_that_prunes_nothing_finds_what_the_exact_search_does(
    texts: TextEncoder, layout: str, count: int
) -> None:
    """`count` entities that head a fact each, or slots, are what the tree holds."""
    vectors = F.normalize(torch.randn(count, texts.dimension, generator=torch.manual_seed(0)), dim=-1)
    names = [f"Q{i}" for i in range(count)]
    found = []
    for backend in ("exact", "hikvp"):
        kept = {"roots": count + 1, "inner": count + 1, "entities": 20}
        memory = KnowledgeMemory(memory_settings(layout=layout, backend=backend, **kept), texts)
        memory.entities.restore(names, names, vectors)
        memory.relations.restore(["P0"], ["capital"], vectors[:1])
        memory.slots.restore([f"{i}/0" for i in range(count)], names, vectors)
        memory.append(np.array([(i, 0, 0) for i in range(count)]))
        found.append(memory.search(ask(texts, 4), 5))
    same(*found)
