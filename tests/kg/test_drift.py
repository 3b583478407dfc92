"""Drift: incremental against recomputed, what moves it and what does not, and when a refresh is asked for."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.kg.drift import Drift, asks_refresh
from pipeline.kg.foldin import fold_in
from tests.kg.test_rotate import some_rotations, some_vectors

FACTS = [(0, 0, 1), (1, 1, 2), (2, 0, 3), (3, 1, 0), (0, 1, 2), (4, 0, 4)]
ALL = [(h, r, t) for h in range(5) for r in range(2) for t in range(5)]


def drift(facts: list[tuple[int, int, int]] = FACTS) -> Drift:
    return Drift("abcde", "rs", some_vectors(5, 4), some_rotations(2, 4), torch.tensor(facts).reshape(-1, 3))


def named(fact: tuple[int, int, int], op: str) -> tuple[str, str, str, str]:
    return "abcde"[fact[0]], "rs"[fact[1]], "abcde"[fact[2]], op


def place_of(entity: int, facts: set[tuple[int, int, int]]) -> torch.Tensor | None:
    mine = [fact for fact in sorted(facts) if entity in (fact[0], fact[2]) and fact[0] != fact[2]]
    if not mine:
        return None
    others = torch.tensor([h if t == entity else t for h, _, t in mine])
    relations = some_rotations(2, 4)[[r for _, r, _ in mine]]
    return fold_in(some_vectors(5, 4)[others], relations, torch.tensor([t == entity for *_, t in mine]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(ALL), max_size=30))
def test_it_is_the_way_of_the_fold_in_whatever_came_and_went(toggled: list[tuple[int, int, int]]) -> None:
    now, kept = set(FACTS), drift()
    for fact in toggled:
        kept.apply([named(fact, "removed" if fact in now else "added")])
        now ^= {fact}
    found = kept()
    for entity in range(5):
        before, after = place_of(entity, set(FACTS)), place_of(entity, now)
        length = some_vectors(5, 4)[entity].abs().square().sum().sqrt()
        right = 0.0
        if before is not None:
            right = 1.0 if after is None else float((after - before).abs().square().sum().sqrt() / length)
        assert float(found[entity]) == pytest.approx(right, abs=1e-4)


def test_facts_of_entities_that_were_not_trained_count_for_those_alone() -> None:
    kept = drift()
    kept.apply([("a", "r", "new", "added"), ("new", "s", "newer", "added"), ("a", "unheard", "b", "added")])
    assert sorted(kept.newcomers) == ["new", "newer"]
    assert kept().tolist() == [0] * 5 + [1, 1]
    kept.apply([("new", "s", "newer", "removed")])
    assert kept.newcomers == ["new"]


def test_a_wrong_operation_changes_nothing() -> None:
    kept = drift()
    with pytest.raises(ValueError, match="a change must be one of added, removed, not 'moved'"):
        kept.apply([("a", "r", "c", "added"), ("a", "r", "d", "moved")])
    assert kept().abs().max() == 0


def test_it_goes_on_after_it_was_saved(tmp_path: Path) -> None:
    first = drift()
    first.apply([named((0, 0, 2), "added"), ("a", "r", "new", "added")])
    first.save(tmp_path / "drift.safetensors")
    second = Drift.load(tmp_path / "drift.safetensors")
    assert torch.equal(first(), second())
    for one in (first, second):
        one.apply([named((0, 0, 1), "removed"), ("a", "r", "new", "removed")])
    assert torch.equal(first(), second())
    assert first().max() > 0
    (tmp_path / "drift.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no drift of entities"):
        Drift.load(tmp_path / "drift.safetensors")


def test_a_refresh_is_asked_for_by_the_share_that_moved() -> None:
    moved = torch.tensor([0.0, 0.2, 0.4, 0.6])
    assert asks_refresh(moved, threshold=0.3, share=0.4)
    assert not asks_refresh(moved, threshold=0.3, share=0.5)
    assert not asks_refresh(moved, threshold=0.6, share=0.0)
    assert not asks_refresh(torch.zeros(0), threshold=0.0, share=0.0)
    with pytest.raises(ValueError, match="share in"):
        asks_refresh(moved, threshold=0.3, share=1.0)
