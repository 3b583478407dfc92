"""Centres of points: the geometric median against a slow search, exact cases, and many entities at once."""

import pytest
import torch

from pipeline.kg.foldin import CENTRES, fold_in, means, medians
from tests.kg.test_rotate import some_rotations, some_vectors


def cost(points: torch.Tensor, weights: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Σ wᵢ |xᵢ − e| in each dimension."""
    return (weights[:, None] * (points - at).abs()).sum(dim=0)


def some_weights(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) + 0.1


def alone(points: torch.Tensor, weights: torch.Tensor, centre: str) -> torch.Tensor:
    rows = torch.zeros(len(points), dtype=torch.long)
    return CENTRES[centre](points, weights, rows, 1)[0]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_near_a_median_is_nearer_to_the_points(seed: int) -> None:
    points, weights = some_vectors(7, 6, seed).to(torch.cdouble), some_weights(7, seed).double()
    found = alone(points, weights, "median")
    best = cost(points, weights, found)
    scale = float(weights.sum())
    for angle in range(12):
        for step in (1e-1, 1e-2):
            there = found + step * torch.exp(torch.tensor(1j * angle / 12 * 6.2832))
            assert (cost(points, weights, there) >= best - 1e-6 * scale).all()
    for point in points:
        assert (cost(points, weights, point) >= best - 1e-6 * scale).all()
    assert (best <= cost(points, weights, alone(points, weights, "mean"))).all()


def test_medians_of_one_and_two_facts_are_exact() -> None:
    points = some_vectors(2, 8)
    assert torch.equal(alone(points[:1], torch.ones(1), "median"), points[0])
    middle = alone(points, torch.ones(2), "median")
    assert torch.allclose(middle, points.mean(dim=0), atol=1e-6)
    assert torch.equal(alone(points, torch.tensor([1.0, 2.0]), "median"), points[1])


def test_facts_with_less_than_half_of_the_weight_do_not_carry_a_median_away() -> None:
    true = some_vectors(1, 8)
    points = torch.cat([true.expand(4, 8), 1000 * some_vectors(3, 8, seed=3)])
    assert torch.allclose(alone(points, torch.ones(7), "median"), true[0], atol=1e-2)
    assert (alone(points, torch.ones(7), "mean") - true[0]).abs().mean() > 10


@pytest.mark.parametrize("centre", CENTRES)
def test_a_centre_turns_and_grows_with_its_points(centre: str) -> None:
    points, weights = some_vectors(6, 5), some_weights(6)
    turn = some_rotations(1, 5)
    moved = alone(3 * points * turn, weights, centre)
    assert torch.allclose(moved, 3 * alone(points, weights, centre) * turn[0], atol=1e-3)


@pytest.mark.parametrize("find", [means, medians])
def test_many_entities_at_once_are_those_one_by_one_in_any_order(find: object) -> None:
    points, weights = some_vectors(12, 4), some_weights(12)
    rows = torch.tensor([2, 0, 2, 3, 0, 0, 2, 2, 3, 0, 0, 2])
    together = find(points, weights, rows, 4)  # type: ignore[operator]
    for row in (0, 2, 3):
        mine = rows == row
        one = find(points[mine], weights[mine], torch.zeros(int(mine.sum()), dtype=torch.long), 1)  # type: ignore[operator]
        assert torch.allclose(together[row], one[0], atol=1e-3)
    assert (together[1] == 0).all(), "a row without facts"


def test_the_median_is_exact_where_all_facts_hold() -> None:
    new, relations = some_vectors(1, 16)[0], some_rotations(4, 16)
    incoming = torch.tensor([True, False, True, False])
    neighbours = torch.where(incoming[:, None], new * relations.conj(), new * relations)
    assert torch.allclose(fold_in(neighbours, relations, incoming, centre="median"), new, atol=1e-5)
    with pytest.raises(ValueError, match="centre must be one of mean, median, not 'mode'"):
        fold_in(neighbours, relations, incoming, centre="mode")
