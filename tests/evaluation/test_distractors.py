"""Generated facts: as many as are asked for, all new, made like real ones, and found among them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.evaluation.distractors import add_distractors, combined, draw
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder
from tests.memory.small import ask, filled, slow_scores
from tests.tiny import SmallWorld, memory_settings

COUNT = 300


@pytest.fixture(scope="module")
def texts(encoder: Encoder) -> TextEncoder:
    return TextEncoder(encoder, "cpu")


def opened(world: SmallWorld, texts: TextEncoder, **changes: object) -> KnowledgeMemory:
    settings = memory_settings(**({"entities": 9999} | changes))
    return KnowledgeMemory.open(world.paths.index, settings, texts)


def live(memory: KnowledgeMemory) -> np.ndarray:
    return np.flatnonzero(memory.alive)


def content(memory: KnowledgeMemory) -> tuple[object, ...]:
    return memory.triples.tolist(), memory.entities.texts, memory.entities.vectors.tolist()


def test_a_seed_always_gives_the_same_facts_and_another_one_others(
    world: SmallWorld, texts: TextEncoder
) -> None:
    one, again, other = (opened(world, texts) for _ in range(3))
    for memory, seed in ((one, 0), (again, 0), (other, 1)):
        add_distractors(memory, live(memory), COUNT, "mixed", seed)
    assert content(one) == content(again)
    assert content(one)[0] != content(other)[0]


@pytest.mark.parametrize("layout", ["factored", "slot"])
@pytest.mark.parametrize("vectors", ["mixed", "encoded"])
@pytest.mark.parametrize("count", [1, COUNT])
def test_as_many_facts_are_added_and_none_is_near_a_real_one(
    world: SmallWorld, texts: TextEncoder, layout: str, vectors: str, count: int
) -> None:
    memory = opened(world, texts, layout=layout)
    facts, entities = memory.triples.copy(), len(memory.entities)
    made = add_distractors(memory, live(memory), count, vectors, 0)
    assert len(memory) == len(facts) + count == len(memory.triples)
    assert len(memory.entities) == entities + made
    assert (memory.triples[: len(facts)] == facts).all()
    assert len(np.unique(memory.triples, axis=0)) == len(memory)
    fresh = memory.triples[len(facts) :]
    assert sorted(set(fresh[:, 0].tolist())) == list(range(entities, len(memory.entities)))
    labels = [text.casefold() for text in memory.entities.texts]
    assert not set(labels[:entities]) & set(labels[entities:])
    assert len(set(labels[entities:])) == made
    if layout == "slot":
        assert {tuple(memory.triples[row, :2].tolist()) for row in live(memory)} == {
            tuple(map(int, key.split("/"))) for key in memory.slots.keys
        }


def test_they_are_made_like_real_facts(world: SmallWorld, texts: TextEncoder) -> None:
    memory = opened(world, texts)
    before = len(memory.entities)
    drawn = draw(memory, live(memory), COUNT, 0)
    real, fresh = memory.triples[drawn.like], drawn.triples
    assert (fresh[:, 1] == real[:, 1]).all()
    assert (real[:, 0] == drawn.first[fresh[:, 0] - before]).all()
    names = memory.entities.texts
    assert all(names[one] != names[other] for one, other in zip(drawn.first, drawn.second, strict=True))
    kept = fresh[:, 2] == real[:, 2]
    assert (fresh[~kept, 2] >= before).all()
    assert 0.4 < kept.mean() < 0.6
    degrees = np.bincount(fresh[:, 0] - before)
    wanted = [len(memory.facts_of(head)) for head in drawn.first.tolist()]
    assert degrees[:-1].tolist() == wanted[:-1]  # the last one is cut off
    assert 0 < degrees[-1] <= wanted[-1]


@pytest.mark.parametrize("seed", range(8))
def test_slots_of_many_facts_keep_them_apart(texts: TextEncoder, seed: int) -> None:
    memory = filled(texts, [("Q0", "P0", f"Q{tail}") for tail in range(6)] + [("Q1", "P0", "Q2")])
    add_distractors(memory, live(memory), 9, "mixed", seed)
    assert len(np.unique(memory.triples, axis=0)) == len(memory) == 16


def test_a_second_call_adds_other_facts(world: SmallWorld, texts: TextEncoder) -> None:
    memory = opened(world, texts)
    real = live(memory)
    for _ in range(2):
        add_distractors(memory, real, 50, "mixed", 0)
    assert len(memory) == len(real) + 100
    first, second = memory.triples[len(real) : -50], memory.triples[-50:]
    assert not set(first[:, 0].tolist()) & set(second[:, 0].tolist())
    assert first[:, 1].tolist() != second[:, 1].tolist()


def test_a_mixed_vector_lies_halfway_between_the_two_it_is_mixed_from(
    world: SmallWorld, texts: TextEncoder
) -> None:
    memory = opened(world, texts, layout="slot")
    drawn, start, slots = draw(memory, live(memory), COUNT, 0), len(memory.entities), len(memory.slots)
    add_distractors(memory, live(memory), COUNT, "mixed", 0)
    for vectors in (memory.entities.vectors[start:], memory.slots.vectors[slots:]):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-3, rtol=0)
    held = memory.entities.vectors
    right = F.normalize(held[torch.from_numpy(drawn.first)] + held[torch.from_numpy(drawn.second)], dim=-1)
    torch.testing.assert_close(held[start:], right, atol=1e-3, rtol=0)
    for (head, relation, _), like in zip(drawn.triples.tolist(), drawn.like.tolist(), strict=True):
        copied = memory.slots.row("/".join(map(str, memory.triples[like, :2].tolist())))
        wanted = memory.slots.vectors[copied] + held[drawn.second[head - start]]
        got = memory.slots.vectors[memory.slots.row(f"{head}/{relation}")]
        torch.testing.assert_close(got, F.normalize(wanted, dim=0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_an_encoded_vector_is_that_of_the_label(world: SmallWorld, texts: TextEncoder, layout: str) -> None:
    memory = opened(world, texts, layout=layout)
    add_distractors(memory, live(memory), 9, "encoded", 0)
    names = memory.entities if layout == "factored" else memory.slots
    torch.testing.assert_close(names.vectors[-3:], texts.encode(names.texts[-3:]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["factored", "slot"])
@pytest.mark.parametrize("backend", ["exact", "hikvp", "ivf"])
def test_real_and_generated_facts_are_found_among_each_other(
    world: SmallWorld, texts: TextEncoder, layout: str, backend: str
) -> None:
    if backend == "ivf":
        pytest.importorskip("faiss", reason="faiss is an extra")
    memory = opened(world, texts, layout=layout, backend=backend, roots=99, inner=99, probes=99)
    real = live(memory)
    memory.search(ask(texts, 1))  # what it keeps to search by must not outlive the change
    add_distractors(memory, real, COUNT, "mixed", 0)
    query = ask(texts, 4)
    found = memory.search(query, 100)
    assert len(set(found.facts[0].tolist())) == 100
    for question in range(4):
        scores = slow_scores(memory, query, question)
        best = torch.tensor(sorted(scores.values(), reverse=True)[:100])
        torch.testing.assert_close(found.scores[question], best, atol=1e-4, rtol=1e-4)
    generated = found.facts >= len(real)
    assert generated.any()
    assert not generated.all()


@pytest.mark.parametrize(
    ("one", "other", "label"),
    [
        ("Barack Obama", "Bill Clinton", "Barack Clinton"),
        ("Paris", "Berlin", "Paris Berlin"),
        ("Ludwig van Beethoven", "Paris", "Ludwig van Paris"),
        ("Paris", "Ludwig van Beethoven", "Paris van Beethoven"),
        ("John Smith", "Jane Smith", "John Smith 2"),
        ("john Doe", "Jane smith", "john smith 2"),
    ],
)
def test_labels_are_spliced_and_never_those_of_real_entities(one: str, other: str, label: str) -> None:
    texts = ["John Smith", one, other]
    assert combined(texts, [1], [2]) == [label]
    twice = combined(texts, [1, 1], [2, 2])
    assert len(set(twice)) == 2
    assert not set(twice) & set(texts)


def test_one_label_is_too_few_to_splice(texts: TextEncoder) -> None:
    memory = filled(texts, [("Q0", "P0", "Q2"), ("Q4", "P0", "Q3")])  # both heads are called Aland
    with pytest.raises(UserError, match=r"grounding\.sizes: 7 facts .* heads of two labels .* finds 1;"):
        add_distractors(memory, live(memory), 7, "mixed", 0)
