"""Grounding: which memories are asked, and that places are those of the right facts."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.benchmarks.grounding import accuracy
from pipeline.config import UserError
from pipeline.evaluation.grounding import AS_ASKED, Grounding, memories, places, probes
from pipeline.kg.facts import read_table
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import dysk, opened, ours, rag, rag_tuned, vector
from tests.tiny import SmallWorld


def settings(**changes: Any) -> Grounding:
    values: dict[str, Any] = {
        "methods": ["rag"],
        "sizes": [3],
        "distractors": "mixed",
        "seeds": [0],
        "questions": 7,
        "split": "unseen",
        "kinds": ["human", "template"],
        "wordings": {"key": ["What is the {noun} of {name}?"]},
        "batch_size": 2,
        "bootstrap_samples": 20,
    }
    return Grounding(**(values | changes))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 50), st.integers(0, 3))
def test_every_question_is_asked_once_of_a_memory_that_holds_its_fact(
    right: list[int], size: int, seed: int
) -> None:
    every = list(range(31))
    asked = []
    for group, held in memories(right, every, size, seed):
        asked += list(group)
        assert {right[place] for place in group} <= set(held)
        assert len(held) == len(set(held)) == min(size, 31)
    assert asked == list(range(len(right)))


def test_a_larger_memory_holds_what_a_smaller_one_did() -> None:
    right, every = [4, 5], list(range(100))
    small, large = (next(memories(right, every, size, 0))[1] for size in (10, 50))
    assert set(small) < set(large)


@pytest.mark.parametrize(
    "method", [rag(), rag_tuned(), ours(), dysk(), vector(), vector(roots=9, inner=9, leaves=99)]
)
def test_places_are_those_of_the_right_fact(
    method: Any, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(method, world, lm, encoder)
    questions = read_table(world.paths.kv, "questions")
    asked = probes(world.graph, questions, settings(), 0)
    before = len(system.memory)
    alone = places(system, world.graph, asked, 1, 0, 2)
    assert alone == {"key": [1] * len(asked), AS_ASKED: [1] * len(asked)}
    many = places(system, world.graph, asked, before, 0, 2)
    assert len(system.memory) == before
    assert all(0 <= place <= 5 for place in many["key"])
    assert set(many["key"]) != {1}  # a random encoder doesn't find them all


def test_wordings_ask_the_same_facts_and_seeds_draw_others(world: SmallWorld) -> None:
    questions = read_table(world.paths.kv, "questions")
    drawn = settings(questions=2, kinds=["template"])
    first, again, other = (probes(world.graph, questions, drawn, seed) for seed in (0, 0, 1))
    assert first == again != other
    for probe in first:
        head, relation, _ = world.graph.triples[probe.facts[0]].tolist()
        wanted = f"What is the {world.graph.nouns[relation]} of {world.graph.labels[head]}?"
        assert probe.texts["key"] == wanted


def test_a_split_without_questions_is_named(world: SmallWorld) -> None:
    questions = read_table(world.paths.kv, "questions")
    with pytest.raises(UserError, match="no question of kind poem in the split 'unseen'"):
        probes(world.graph, questions, settings(kinds=["poem"]), 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sizes": []}, "grounding.sizes must not be empty"),
        ({"sizes": [0]}, "sizes, questions, batch_size and bootstrap_samples must be at least 1"),
        ({"distractors": "none"}, "distractors must be one of mixed, encoded, not 'none'"),
        ({"wordings": {"key": ["What is it?"]}}, "grounding.wordings.key must hold templates"),
    ],
)
def test_values_that_make_no_sense_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)


def test_accuracy_counts_first_and_fifth_places() -> None:
    rows = [{"method": "m", "wording": "key", "facts": 10, "place": place} for place in (1, 1, 5, 0)]
    figures = accuracy(rows, 50)["m"]["key"]["10"]
    assert figures["acc1"]["mean"] == 0.5
    assert figures["acc5"]["mean"] == 0.75
    assert figures["questions"] == 4
    assert np.isfinite(figures["acc1"]["low"])
    assert torch.tensor(figures["acc1"]["high"]) >= 0.5
