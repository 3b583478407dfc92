"""BM25 as a system: its order is that of the index, its doubt falls as more of the question is covered."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.memory.facts import Fact
from pipeline.memory.lexical import LexicalIndex
from pipeline.model.adapter import load_adapter, save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import bm25, opened, rag, shaken, some_examples
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?"]


@pytest.mark.parametrize("documents", ["key", "fact"])
def test_facts_come_in_the_order_of_their_documents(
    documents: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(bm25(documents=documents, k1=0.7, b=0.2), world, lm, encoder)
    found = system.found(QUESTIONS)
    right = LexicalIndex(system.memory, documents, 0.7, 0.2).search(QUESTIONS, 12)
    for row, (facts, scores) in enumerate(right):
        assert found.facts[row].tolist() == facts
        assert found.scores[row].tolist() == pytest.approx(scores)
    assert torch.equal(system.ground(QUESTIONS, 5), found.facts[:, :5])


def test_doubt_is_the_share_of_the_question_that_the_best_fact_leaves_out(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """Without saturation (k1 = 0) a document that holds every word covers the whole question."""
    system = opened(bm25(k1=0.0), world, lm, encoder)
    whole, half, none = system.found(["the capital of Aland", "the capital of Atlantis", "xyzzy"]).doubt
    assert whole == pytest.approx(0.0, abs=1e-5)
    assert 0.1 < half < 0.99
    assert none == 1.0
    assert system.refused(torch.tensor([0.0, 1.0])) == [False, False]
    system.limit = 0.5
    assert system.refused(torch.tensor([0.0, 0.5, 1.0])) == [False, False, True]


def test_an_empty_memory_and_no_questions(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(bm25(), world, lm, encoder)
    assert system.found([]).facts.shape == (0, 12)
    system.memory.delete([system.memory.fact(row).key for row in range(len(system.memory))])
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.facts == reply.candidates == reply.weights == [[], []]
    assert reply.refusal == [1.0, 1.0]
    system.memory.upsert([Fact("Q0", "P36", "X", tail_label="Newtown")])
    with system.attached():
        assert len(system.reply(QUESTIONS).facts[0]) == 1


def test_it_answers_with_the_adapter_of_rag(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    trained = opened(rag(), world, lm, encoder)
    shaken(trained, 0.05)
    save_adapter(trained, tmp_path, {})
    system = opened(bm25(), world, lm, encoder)
    load_adapter(system, tmp_path)
    example = some_examples(system)[0]
    lost = [made.surprise([example.text], [" City"], [[0, 1]]) for made in (trained, system)]
    for made in (trained, system):
        with made.attached():
            lost.append(made.surprise([example.text], [" City"], [[0, 1]]))
    assert torch.equal(lost[0], lost[1])
    assert torch.equal(lost[2], lost[3])
    assert not torch.equal(lost[0], lost[2])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"documents": "web"}, "method.documents must be one of key, fact, not 'web'"),
        ({"k1": -0.1}, r"method.k1 must be at least 0 and method.b in \[0, 1\], not -0.1 and 0.75"),
        ({"b": 1.1}, r"method.k1 must be at least 0 and method.b in \[0, 1\], not 1.2 and 1.1"),
        ({"rank": 0}, "method.rank, fact_tokens and answer_tokens must be at least 1"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(bm25(), **changes)  # type: ignore[arg-type]
