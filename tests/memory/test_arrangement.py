"""Searches beside changes: of facts in arrays and of a base, against a memory made of what holds."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Key
from pipeline.memory.store import KnowledgeMemory
from tests.memory.small import KEYS, ask, fact, filled, held
from tests.tiny import memory_settings

ONE_OF_TWINS = st.lists(KEYS.filter(lambda key: key[0] != "Q4"), max_size=12)
"""Facts of heads that all have names of their own: it is chance which of two twins is looked at."""


def listed(memory: KnowledgeMemory, found: Candidates, question: int) -> list[tuple[float, Key, Key | None]]:
    """Return score, fact and the fact that leads to it, of one question."""
    columns = zip(found.scores[question].tolist(), found.facts[question].tolist(),
                  found.via[question].tolist(), strict=True)  # fmt: skip
    return [(score, memory.fact(row).key, memory.fact(via).key if via >= 0 else None)
            for score, row, via in columns if row >= 0]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    where=st.sampled_from(["arrays", "base"]),
    first=ONE_OF_TWINS,
    changes=st.lists(st.tuples(st.booleans(), ONE_OF_TWINS), max_size=5),
    hops=st.sampled_from([1, 2]),
    looked_at=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_changed_memory_is_searched_as_one_made_of_what_holds(
    tmp_path_factory: pytest.TempPathFactory,
    texts: TextEncoder,
    where: str,
    first: list[Key],
    changes: list[tuple[bool, list[Key]]],
    hops: int,
    looked_at: int,
    seed: int,
) -> None:
    section = {"entities": looked_at, "beam": 100, "N": 400}
    memory = filled(texts, first, **section)
    if where == "base":
        folder: Path = tmp_path_factory.mktemp("memory") / "base"
        memory.lay_down(folder)
        memory = KnowledgeMemory.open(folder, memory_settings(**section), texts)
    query = ask(texts, 3, seed, hops)
    memory.search(query)  # lays the facts out
    for deletes, keys in changes:
        if deletes:
            memory.delete([key for key in keys if memory.find(*key) is not None])
        else:
            memory.upsert([fact(key) for key in keys])
    # All relations must be known to both, for the shares are of all of them.
    other = KnowledgeMemory(memory.settings, texts)
    for kind in ("entities", "relations"):
        for block in getattr(memory, kind).blocks():
            getattr(other, kind).restore(*block)
    other.upsert([fact(key) for key in sorted(held(memory))])
    assert held(other) == held(memory)
    found, right = memory.search(query), other.search(query)
    torch.testing.assert_close(found.scores, right.scores, atol=1e-4, rtol=1e-4)
    for question in range(3):
        mine, theirs = listed(memory, found, question), listed(other, right, question)
        assert {row[1:] for row in mine} == {row[1:] for row in theirs}
    heads = torch.arange(len(memory.entities)).numpy()
    assert memory.counts(heads).tolist() == [len(memory.facts_of(head)) for head in heads.tolist()]


def test_a_search_sees_no_change_that_came_after_it_began(texts: TextEncoder) -> None:
    memory = filled(texts, [("Q0", "P0", "Q2"), ("Q1", "P0", "Q3")])
    query = ask(texts, 4)
    before, scoring = memory.search(query), memory.arrangement.scoring
    memory.upsert([fact(("Q5", "P0", "Q1")), fact(("Q0", "P0", "Q1"))])
    memory.delete([("Q1", "P0", "Q3")])
    assert torch.equal(scoring.search(query, 200).facts[:, :2], before.facts[:, :2])
    assert (scoring.search(query, 200).facts[:, 2:] == -1).all()
    assert len(held(memory)) == 3
    memory.upsert([fact(("Q1", "P0", "Q3"))])
    memory.delete([("Q5", "P0", "Q1"), ("Q0", "P0", "Q1")])
    assert torch.equal(memory.search(query).facts, before.facts)


def test_facts_in_arrays_are_laid_out_anew_after_many_changes(
    texts: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.memory.arrangement.CHANGES", 3)
    memory = filled(texts, [("Q0", "P0", "Q2")])
    query = ask(texts, 2)
    for tail in (1, 3, 4, 5, 0):
        memory.upsert([fact(("Q1", "P1", f"Q{tail}"))])
        assert len(memory.search(query).facts.unique()) == len(memory) + 1, "every fact, and -1"
    assert len(memory.arrangement.scoring.delta) <= 3
