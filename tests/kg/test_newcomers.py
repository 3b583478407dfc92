"""Held-out entities: what they bring is split without a rest, and nobody who stays loses all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kg.newcomers import arrivals


def dense_graph(seed: int, entities: int = 30, facts: int = 260) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers((entities, 3, entities), size=(facts, 3))
    return np.unique(
        np.concatenate([drawn, [[e, e % 3, (e + 1) % entities] for e in range(entities)]]), axis=0
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 4))
def test_the_split_loses_nothing_and_keeps_its_promises(seed: int, least: int, questions: int) -> None:
    facts = dense_graph(seed % 7)
    split = arrivals(facts, (2, 4), least, questions, seed)
    known, first, end = split.bounds.tolist()
    assert (first - known, end - first, end) == (2, 4, 30)
    assert len(split.facts) == len(facts)
    assert len(np.unique(split.facts, axis=0)) == len(facts)
    assert set(split.known[:, [0, 2]].ravel().tolist()) == set(range(known)), "known ones keep a fact"
    assert set(split.known[:, 1].tolist()) == set(range(split.relations))
    new = split.facts[:, [0, 2]] >= known
    assert sorted(np.bincount(split.facts[:, 1])) == sorted(np.bincount(facts[:, 1]))
    assert new.any()
    query = split.queries[:, [0, 2]]
    assert ((query >= known).sum(axis=1) == 1).all()
    assert (query.max(axis=1) == split.owner).all()
    ends = split.support[:, [0, 2]]
    from_known = ends[(ends < known).any(axis=1)].max(axis=1)
    asked, given_ = np.bincount(split.owner, minlength=end), np.bincount(from_known, minlength=end)
    for newcomer in range(known, end):
        assert 1 <= asked[newcomer] <= questions
        assert asked[newcomer] <= given_[newcomer]
        assert asked[newcomer] + given_[newcomer] >= least


def test_the_same_seed_holds_out_the_same_and_too_many_are_refused() -> None:
    facts = dense_graph(0)
    first, same, other = (arrivals(facts, (3,), 2, 2, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.facts, same.facts)
    assert not np.array_equal(first.facts, other.facts)
    with pytest.raises(ValueError, match="entities have 2 facts that others can spare, not 30"):
        arrivals(facts, (30,), 2, 2, 0)
    with pytest.raises(ValueError, match="2 facts"):
        arrivals(facts, (3,), 1, 2, 0)
