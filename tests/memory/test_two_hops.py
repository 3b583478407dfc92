"""Questions over two facts: the search equals a scan of every way, and scores have gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.store import KnowledgeMemory
from tests.memory.small import EVERYTHING, KEY_LISTS, ask, filled, slow_scores

LAYOUTS = ("factored", "slot")
Way = tuple[int, int]


def slow_ways(memory: KnowledgeMemory, query: Query, question: int) -> dict[Way, float]:
    """Return the score of every fact by every way to it, (fact, via), one after the other."""
    assert query.second is not None
    assert query.stop is not None
    logits = [query.second[question] @ vector.float() for vector in memory.relations.vectors]
    later = torch.log_softmax(torch.stack([*logits, query.stop[question, 0]]), dim=0)
    weight = memory.settings.relation_weight
    ways = {}
    for fact, score in slow_scores(memory, query, question).items():
        ways[fact, -1] = score + weight * float(later[-1])
        for second in memory.facts_of(int(memory.triples[fact, 2])):
            ways[second, fact] = score + weight * float(later[memory.triples[second, 1]])
    return ways


@settings(max_examples=40, deadline=None)
@given(layout=st.sampled_from(LAYOUTS), keys=KEY_LISTS, data=st.data(), seed=st.integers(0, 99))
def test_the_search_equals_a_scan_of_every_way(
    texts: TextEncoder, layout: str, keys: list[tuple[str, str, str]], data: st.DataObject, seed: int
) -> None:
    deleted = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    memory = filled(texts, keys, deleted, layout=layout, N=EVERYTHING, beam=EVERYTHING)
    query = ask(texts, 3, seed, hops=2)
    found = memory.search(query)
    for question in range(3):
        slow = slow_ways(memory, query, question) if len(memory) else {}
        best: dict[int, float] = {}
        for (fact, _), score in slow.items():
            best[fact] = max(score, best.get(fact, -torch.inf))
        facts, via = found.facts[question].tolist(), found.via[question].tolist()
        held = [fact for fact in facts if fact >= 0]
        assert sorted(held) == sorted(best)
        for place, way in enumerate(zip(held, via, strict=False)):
            assert slow[way] == pytest.approx(float(found.scores[question, place]), abs=1e-4)
            assert slow[way] == pytest.approx(best[way[0]], abs=1e-4)
        assert set(via[len(held) :]) <= {-1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_score_gives_what_search_found_and_gradients(texts: TextEncoder, layout: str) -> None:
    keys = [("Q0", "P0", "Q2"), ("Q2", "P1", "Q5"), ("Q5", "P2", "Q0"), ("Q1", "P0", "Q3")]
    memory = filled(texts, keys, layout=layout)
    asked = Query(*(part.clone().requires_grad_() for part in ask(texts, 5, hops=2) if part is not None))
    found = memory.search(asked)
    again = memory.score(asked, found.facts, found.via)
    assert (found.via >= 0).any()
    there = found.facts >= 0
    for left, right in zip(found[1:4], again[1:4], strict=True):
        torch.testing.assert_close(left[there], right[there], atol=1e-4, rtol=1e-5)
    assert torch.equal(found.via, again.via)
    torch.autograd.backward(again.scores[there].square().sum())
    parts = [asked.key, asked.second, asked.stop] + ([asked.relation] if layout == "factored" else [])
    for part in parts:
        assert part is not None
        assert part.grad is not None
        assert part.grad.abs().sum() > 0


def test_only_the_beam_is_gone_on_from(texts: TextEncoder) -> None:
    keys = [("Q0", "P0", "Q2"), ("Q1", "P0", "Q3"), ("Q2", "P1", "Q5"), ("Q3", "P1", "Q5")]
    memory = filled(texts, keys, beam=1, N=EVERYTHING)
    query = ask(texts, 8, hops=2)
    one_hop = memory.search(Query(query.key, query.relation))
    for best, ways in zip(one_hop.facts[:, 0].tolist(), memory.search(query).via.tolist(), strict=True):
        assert set(ways) <= {-1, best}
