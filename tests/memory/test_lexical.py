"""BM25 against its formula, word by word; ties, and changes of the memory."""

import subprocess
import sys
from collections import Counter
from math import log

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key
from pipeline.memory.lexical import DOCUMENTS, LexicalIndex, words
from pipeline.memory.store import KnowledgeMemory
from tests.memory.small import KEY_LISTS, fact, filled

ASKED = ["the", "capital", "of", "Aland", "Borland?", "official", "language", "euro", "THE", "unknown"]
QUESTIONS = st.lists(st.sampled_from(ASKED), max_size=6).map(" ".join)


def documents(memory: KnowledgeMemory, kind: str) -> dict[tuple[int, int], list[str]]:
    """Return the words of each slot's document."""
    told: dict[tuple[int, int], list[str]] = {}
    for entity in range(len(memory.entities)):
        for row in memory.facts_of(entity):
            head, relation, _ = memory.triples[row].tolist()
            told.setdefault((head, relation), []).append(memory.text(row))
    return {
        slot: words(memory.slot_text(*slot)) if kind == "key" else words(" ".join(sorted(texts)))
        for slot, texts in told.items()
    }


def slow(question: str, told: list[str], others: list[list[str]], k1: float, b: float) -> float:
    """Return the score of one document, a term of the question after the other."""
    mean, counts, score = sum(map(len, others)) / len(others), Counter(told), 0.0
    for term in words(question):
        holding = sum(term in other for other in others)
        rarity = log(1 + (len(others) - holding + 0.5) / (holding + 0.5))
        score += rarity * counts[term] / (counts[term] + k1 * (1 - b + b * len(told) / mean))
    return score


@pytest.mark.parametrize("kind", DOCUMENTS)
@given(
    keys=KEY_LISTS.filter(bool), question=QUESTIONS, k1=st.sampled_from([0.4, 1.2, 3.0]), b=st.floats(0, 1)
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_are_those_of_the_formula(
    kind: str, keys: list[Key], question: str, k1: float, b: float, texts: TextEncoder
) -> None:
    memory = filled(texts, keys)
    told = documents(memory, kind)
    right = {slot: slow(question, told[slot], list(told.values()), k1, b) for slot in told}
    index = LexicalIndex(memory, kind, k1, b)
    [(facts, scores)] = index.search([question], 999)
    assert len(facts) == len(set(facts)) == len(memory)
    assert scores == sorted(scores, reverse=True)
    for row, score in zip(facts, scores, strict=True):
        head, relation, _ = memory.triples[row].tolist()
        assert score == pytest.approx(right[head, relation], rel=1e-4, abs=1e-6)
        assert score <= index.bound(question) + 1e-5


def test_a_word_that_is_asked_twice_counts_twice(texts: TextEncoder) -> None:
    index = LexicalIndex(filled(texts, [("Q0", "P0", "Q2"), ("Q1", "P1", "Q3")]), "key", 1.2, 0.75)
    once, twice = index.scores("capital"), index.scores("capital capital")
    assert twice.tolist() == pytest.approx((2 * once).tolist())
    assert once.max() > 0


def test_ties_are_broken_by_text_and_not_by_the_order_of_coming(texts: TextEncoder) -> None:
    keys = [(f"Q{head}", "P0", f"Q{tail}") for head in (1, 2, 3) for tail in (0, 5)]
    found = []
    for order in (keys, keys[::-1]):
        memory = filled(texts, order)
        [(facts, scores)] = LexicalIndex(memory, "key", 1.2, 0.0).search(["which capital"], 4)
        assert len(set(scores)) == 1
        found.append([memory.text(row) for row in facts])
    assert found[0] == found[1]
    assert found[0] == [
        "The capital of Borland is Aland.",
        "The capital of Borland is euro.",
        "The capital of Lyon is Aland.",
        "The capital of Lyon is euro.",
    ]


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_changed_memory_is_searched_as_a_new_one_of_the_same_facts(kind: str, texts: TextEncoder) -> None:
    keys: list[Key] = [("Q0", "P0", "Q2"), ("Q1", "P1", "Q3"), ("Q5", "P0", "Q1")]
    memory = filled(texts, keys)
    index = LexicalIndex(memory, kind, 1.2, 0.75)
    question = "the anthem of Lyon, or the official language of Borland"
    assert memory.text(index.search([question], 1)[0][0][0]).startswith("The official language of Borland")
    memory.upsert([fact(("Q3", "P2", "Q0"))])
    memory.delete([keys[1]])
    fresh = filled(texts, [keys[0], keys[2], ("Q3", "P2", "Q0")])
    [(facts, scores)] = index.search([question], 9)
    [(others, right)] = LexicalIndex(fresh, kind, 1.2, 0.75).search([question], 9)
    assert [memory.text(row) for row in facts] == [fresh.text(row) for row in others]
    assert scores == pytest.approx(right)
    assert memory.text(facts[0]) == "The anthem of Lyon is Aland."


def test_only_the_facts_that_are_looked_at_are_found(texts: TextEncoder) -> None:
    memory = filled(texts, [("Q0", "P0", "Q2"), ("Q1", "P0", "Q3")])
    index = LexicalIndex(memory, "key", 1.2, 0.75)
    for rows in ([1], [0], [0, 1]):
        with memory.only(rows):
            assert sorted(index.search(["capital"], 9)[0][0]) == rows


def test_nothing_to_search_and_nothing_asked(texts: TextEncoder) -> None:
    memory = KnowledgeMemory(filled(texts, []).settings, texts)
    index = LexicalIndex(memory, "key", 1.2, 0.75)
    assert index.search(["capital"], 3) == [([], [])]
    assert index.search([], 3) == []
    memory.upsert([Fact("a", "r", "b", "Alpha", "rel", "Beta")])
    assert index.search(["", "xyzzy"], 3) == [([0], [0.0])] * 2
    memory.delete([("a", "r", "b")])
    assert index.search(["rel"], 3) == [([], [])]


def test_case_and_accents_make_no_other_word() -> None:
    assert words("São TOMÉ, Straße 7b") == ["sao", "tome", "strasse", "7b"]
    assert [words(text) for text in ("", "?!", " - ")] == [[], [], []]


def test_a_gpu_is_left_to_torch():
    code = "import sys, pipeline.memory.lexical; sys.exit('bm25s' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
