"""Searches over tables of fixed shapes against the memory's own, through every kind of change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import tables
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.tables import Tables, fits
from tests.memory.small import KEY_LISTS, RELATIONS, ask
from tests.tiny import memory_settings

BASE: list[Key] = [("Q0", "P0", "Q2"), ("Q0", "P0", "Q3"), ("Q1", "P1", "Q5"), ("Q4", "P0", "Q3")]


NAMES = ["Aland", "Borland", "Paris", "Lyon", "Zealand", "euro"]


def fact(key: Key) -> Fact:
    """Return the fact with that key; no two entities share a name, so that nothing but slots ties."""
    head, relation, tail = key
    return Fact(*key, NAMES[int(head[1:])], RELATIONS[int(relation[1:])], NAMES[int(tail[1:])])


def filled(texts: TextEncoder, keys: list[Key], **changes: object) -> KnowledgeMemory:
    memory = KnowledgeMemory(memory_settings(**changes), texts)
    memory.upsert([fact(key) for key in keys])
    return memory


def same(memory: KnowledgeMemory, held: Tables, query: Query) -> None:
    """Check that both find the same, in the same order."""
    found, fixed = memory.search(query), held.search(query)
    expected = memory.score(query, found.facts)
    got = fixed.candidates
    assert not fixed.full.any()
    assert torch.equal(got.facts, found.facts)
    for left, right in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    for row, facts in enumerate(got.facts.tolist()):
        for column, f in enumerate(f for f in facts if f >= 0):
            head, relation, _ = memory.triples[f].tolist()
            assert (fixed.heads[row, column], fixed.relations[row, column]) == (head, relation)
            assert fixed.counts[row, column] == len(memory.facts_of(head))


@settings(max_examples=40, deadline=None)
@given(
    keys=KEY_LISTS.filter(bool),
    before=KEY_LISTS,
    turns=st.lists(st.tuples(st.booleans(), KEY_LISTS), max_size=4),
    entities=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_they_find_what_the_memory_finds_after_every_change(
    texts: TextEncoder,
    keys: list[Key],
    before: list[Key],
    turns: list[tuple[bool, list[Key]]],
    entities: int,
    seed: int,
) -> None:
    memory = filled(texts, keys, N=9, entities=entities)
    query = ask(texts, 3, seed)
    memory.search(query)  # lays the facts out
    memory.upsert([fact(key) for key in before])
    held = Tables(memory, 100)
    same(memory, held, query)
    for writes, changed in turns:
        if writes:
            memory.upsert([fact(key) for key in changed])
        else:
            memory.delete([key for key in changed if memory.find(*key) is not None])
        assert held.follow()
        if len(memory):
            same(memory, held, query)


def test_new_names_are_found_and_values_of_one_slot_keep_their_order(texts: TextEncoder) -> None:
    memory = filled(texts, BASE, N=9)
    query = ask(texts, 2)
    held = Tables(memory, 100)
    memory.upsert([Fact("Q9", "P9", "Q8", "Newland", "motto", "Onward"), fact(("Q0", "P0", "Q5"))])
    memory.delete([BASE[0]])
    memory.upsert([fact(BASE[0])])
    assert held.follow()
    same(memory, held, query)


def test_what_has_no_place_is_told(texts: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled(texts, BASE, N=9)
    held = Tables(memory, 2)
    memory.upsert([fact(("Q0", "P1", "Q5")), fact(("Q1", "P0", "Q5"))])
    assert held.follow()
    memory.upsert([fact(("Q2", "P0", "Q5"))])
    assert not held.follow()
    memory.delete([("Q0", "P1", "Q5")])
    assert not held.follow()  # three rows, of which two hold
    memory.arrangement.drop()
    held = Tables(memory, 2)
    assert held.follow()
    memory.arrangement.drop()
    assert not held.follow()
    monkeypatch.setattr(tables, "WIDTH", 3)
    held, query = Tables(memory, 2), ask(texts, 2)
    assert held.search(query).full.all()
    assert isinstance(held.search(query).candidates, Candidates)


def test_only_facts_in_arrays_that_are_searched_exactly_fit(texts: TextEncoder) -> None:
    assert fits(filled(texts, BASE))
    assert not fits(filled(texts, []))
    assert not fits(filled(texts, BASE, layout="slot"))
    assert not fits(filled(texts, BASE, backend="hikvp"))
