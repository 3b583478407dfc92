"""HiKVP's tree: every key in one place, the right rows at every size, nothing lost when nothing is pruned."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.memory import tree as tree_module
from pipeline.memory.ann import Exact
from pipeline.memory.tree import build_tree, clusters, cube_root, means

SIZES = [1, 2, 7, 27, 28, 512, 513, 10_000]
ALL = 10**6


def keys(count: int, width: int = 24, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("count", SIZES)
def test_a_search_that_keeps_all_is_exact(count: int) -> None:
    vectors, queries = keys(count), keys(5, seed=1)
    n = min(16, count)
    best, rows = build_tree(vectors, ALL, ALL).search(queries, 16)
    expected, places = Exact(vectors).search(queries, 16)
    assert best.shape == rows.shape == (5, n)
    torch.testing.assert_close(best, expected)
    assert (rows == places).all()


@pytest.mark.parametrize("count", SIZES)
def test_what_a_pruned_search_returns_are_the_keys_it_names(count: int) -> None:
    vectors, queries = keys(count), keys(5, seed=1)
    best, rows = build_tree(vectors, 2, 3).search(queries, 16)
    found = best > -torch.inf
    torch.testing.assert_close(best[found], (queries[:, None] * vectors[rows]).sum(-1)[found])
    for row, real in zip(rows.tolist(), found.tolist(), strict=True):
        named = [place for place, there in zip(row, real, strict=True) if there]
        assert len(set(named)) == len(named)
    assert found[:, 0].all()


@pytest.mark.parametrize("count", SIZES)
def test_three_levels_hold_every_key_once_in_balanced_clusters(count: int) -> None:
    tree = build_tree(keys(count), 2, 2)
    size = cube_root(count)
    for members, below in ((tree.inner.below, count), (tree.roots.below, len(tree.inner.keys))):
        held = members[members >= 0]
        assert sorted(held.tolist()) == list(range(below))
        sizes = (members >= 0).sum(dim=1)
        assert members.shape == (-(-below // size), size)
        assert sizes.max() - sizes.min() <= 1
    assert len(tree.roots.keys) <= size


@given(count=st.integers(1, 3_000), size=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_clusters_are_balanced_whatever_the_size(count: int, size: int, seed: int) -> None:
    members = clusters(keys(count, 4, seed), size, torch.Generator().manual_seed(seed))
    assert sorted(members[members >= 0].tolist()) == list(range(count))
    sizes = (members >= 0).sum(dim=1)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= size


def test_keys_that_are_alike_share_a_cluster() -> None:
    centres = keys(8)
    near = F.normalize(centres.repeat_interleave(8, dim=0) + 0.05 * keys(64, seed=2), dim=-1)
    members = clusters(near, 8, torch.Generator().manual_seed(0))
    assert {tuple(sorted({row // 8 for row in rows})) for rows in members.tolist()} == {
        (c,) for c in range(8)
    }
    _best, rows = build_tree(near, 1, 1).search(centres, 4)
    assert ((rows // 8 == torch.arange(8)[:, None]).float().mean() > 0.8).item()


def test_equal_keys_and_few_of_them_are_no_trouble() -> None:
    same = keys(1).expand(100, -1).contiguous()
    best, rows = build_tree(same, ALL, ALL).search(same[:2], 100)
    assert sorted(rows[0].tolist()) == list(range(100))
    torch.testing.assert_close(best, torch.ones(2, 100))
    with pytest.raises(ValueError, match="at least one key"):
        build_tree(same[:0], 1, 1)


def test_a_cluster_key_is_the_mean_of_its_members() -> None:
    vectors = keys(5)
    expected = torch.stack([vectors[[0, 4]].mean(0), vectors[[1, 2, 3]].mean(0)])
    torch.testing.assert_close(means(vectors, torch.tensor([[0, 4, -1], [1, 2, 3]])), expected)


def test_the_reach_of_a_cluster_is_the_spread_of_its_keys() -> None:
    vectors = keys(27) * torch.linspace(0.5, 2, 27)[:, None]
    plain, wide = build_tree(vectors, 1, 1), build_tree(vectors, 1, 1, spread=0.5)
    assert not any(level.reach.any() for level in (plain.inner, plain.roots))
    held = vectors[wide.inner.below]
    for level, members in ((wide.inner, held), (wide.roots, held[wide.roots.below].flatten(1, 2))):
        around = members - members.mean(dim=1, keepdim=True)
        sigma = around.square().sum(dim=-1).mean(dim=-1).sqrt()
        torch.testing.assert_close(level.reach, 0.5 * sigma)


def test_clusters_that_reach_further_are_not_passed_over() -> None:
    narrow = F.normalize(keys(1) + 0.01 * keys(32, seed=2), dim=-1)
    wide = F.normalize(0.3 * keys(1) + keys(1, seed=1) + 1.3 * keys(32, seed=3), dim=-1)
    vectors = torch.cat([narrow, wide])
    right = (wide @ vectors.T).argmax(dim=-1)
    trees = [build_tree(vectors, ALL, 1, spread) for spread in (0.0, 0.4)]
    found = [(tree.search(wide, 1)[1][:, 0] == right).float().mean() for tree in trees]
    assert found[1] > found[0]


def test_what_is_gathered_in_parts_is_found_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = build_tree(keys(513), 3, 5, spread=0.4)
    whole = tree.search(keys(7, seed=1), 9)
    monkeypatch.setattr(tree_module, "GATHERED", 1)
    for part, other in zip(tree.search(keys(7, seed=1), 9), whole, strict=True):
        torch.testing.assert_close(part, other)
    assert tree.search(keys(7)[:0], 9)[0].shape == (0, 9)


@given(number=st.integers(1, 10**12))
def test_the_cube_root_is_exact(number: int) -> None:
    root = cube_root(number)
    assert root**3 >= number > (root - 1) ** 3
