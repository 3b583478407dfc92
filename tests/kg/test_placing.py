"""Folding whole graphs in: every estimate, weight and length, rounds, the discriminant by its equation."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from pipeline.kg.foldin import fold_in
from pipeline.kg.placing import CHOICES, Placing, place
from tests.kg.test_rotate import some_rotations, some_vectors

KNOWN = 12
FACTS = torch.tensor(
    [[i, i % 3, (i + 1) % KNOWN] for i in range(KNOWN)]
    + [[0, 0, 12], [12, 1, 3], [5, 2, 12], [12, 0, 13], [13, 1, 7], [14, 0, 13], [14, 0, 14]]
)


def placing(**changes: Any) -> Placing:
    values = {"estimate": "mean", "weights": "equal", "centred": False, "length": "own", "ridge": 1.0}
    return Placing(**(values | {"rounds": 3, "again": False} | changes))


def graph() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    entities = torch.cat([some_vectors(KNOWN, 6), torch.full((4, 6), torch.nan, dtype=torch.cfloat)])
    return entities, some_rotations(3, 6), torch.arange(16) < KNOWN


VARIANTS = [
    dict(zip(CHOICES, values, strict=True)) | {"centred": centred}
    for *values, centred in itertools.product(*CHOICES.values(), (False, True))
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda one: "-".join(map(str, one.values())))
def test_every_way_places_the_new_and_leaves_the_known(changes: dict[str, Any]) -> None:
    entities, relations, known = graph()
    vectors, there = place(entities, relations, known, FACTS, placing(**changes))
    assert torch.equal(vectors[known], entities[known])
    assert there.tolist() == [True] * 15 + [False], "the last has no fact"
    assert torch.isfinite(torch.view_as_real(vectors)).all()
    assert (vectors[15] == 0).all()
    order = torch.randperm(len(FACTS), generator=torch.Generator().manual_seed(0))
    shuffled, _ = place(entities, relations, known, FACTS[order], placing(**changes))
    assert torch.allclose(shuffled, vectors, atol=1e-3)
    if changes["length"] == "known":
        mean = entities[known].abs().square().sum(dim=1).sqrt().mean()
        lengths = vectors[12:15].abs().square().sum(dim=1).sqrt()
        assert torch.allclose(lengths, mean.expand(3), rtol=1e-4)


@pytest.mark.parametrize("estimate", ["mean", "median"])
def test_the_plain_estimates_are_fold_in(estimate: str) -> None:
    entities, relations, known = graph()
    vectors, _ = place(entities, relations, known, FACTS, placing(estimate=estimate))
    right = fold_in(
        entities[[0, 3, 5]], relations[[0, 1, 2]], torch.tensor([True, False, True]), centre=estimate
    )
    assert torch.allclose(vectors[12], right, atol=1e-4)


def test_rounds_reach_further_and_again_takes_new_neighbours_too() -> None:
    entities, relations, known = graph()
    _, first = place(entities, relations, known, FACTS, placing(rounds=1))
    assert first[12:].tolist() == [True, True, False, False]
    once, second = place(entities, relations, known, FACTS, placing(rounds=2))
    assert second[12:].tolist() == [True, True, True, False]
    again, _ = place(entities, relations, known, FACTS, placing(rounds=2, again=True))
    assert not torch.allclose(again[12], once[12])
    neighbours = torch.stack([entities[0], entities[3], entities[5], once[13]])
    incoming = torch.tensor([True, False, True, False])
    assert torch.allclose(again[12], fold_in(neighbours, relations[[0, 1, 2, 0]], incoming), atol=1e-5)


def test_the_discriminant_solves_its_equation() -> None:
    entities, relations, known = graph()
    rho = 0.7
    vectors, _ = place(
        entities, relations, known, FACTS, placing(estimate="discriminant", ridge=rho, rounds=1)
    )
    trained = entities[known].to(torch.cdouble)
    mean = trained.mean(dim=0)
    turns = torch.stack([relations[0], relations[1].conj(), relations[2]]).to(torch.cdouble)
    matrix, point = torch.zeros(6, 6, dtype=torch.cdouble), torch.zeros(6, dtype=torch.cdouble)
    spread = ((trained - mean).abs().square().sum(dim=1)).mean() / 6
    for turn, neighbour in zip(turns, trained[[0, 3, 5]], strict=True):
        cloud = (trained - mean) * turn
        matrix += (cloud.T @ cloud.conj()) / len(cloud) / 3
        point += (neighbour - mean) * turn / 3
    matrix += rho * spread * torch.eye(6)
    assert torch.allclose(matrix @ vectors[12].to(torch.cdouble), point, atol=1e-4)


def test_a_large_ridge_gives_the_direction_of_the_centred_mean() -> None:
    entities, relations, known = graph()
    ways = (
        placing(estimate="discriminant", ridge=1e5, length="known"),
        placing(centred=True, length="known"),
    )
    first, second = (place(entities, relations, known, FACTS[:-4], way)[0] for way in ways)
    assert torch.allclose(first, second, atol=1e-3)


def test_weights_prefer_what_fits_and_what_is_rare() -> None:
    entities, relations, known = graph()
    entities[2] = entities[1] * relations[1]
    facts = torch.tensor([[1, 1, 2], [3, 0, 4], [3, 0, 5], [3, 0, 6], [7, 2, 8], [1, 1, 12], [3, 0, 12]])
    exact, loose = entities[1] * relations[1], entities[3] * relations[0]
    for weights in ("residual", "rarity"):
        vectors, _ = place(entities, relations, known, facts, placing(weights=weights))
        nearer = (vectors[12] - exact).abs().sum() < (vectors[12] - loose).abs().sum()
        assert nearer, weights


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"estimate": "mode"}, "placing.estimate must be one of mean, median, discriminant, not 'mode'"),
        ({"ridge": 0.0}, "placing.ridge must be above 0, not 0.0"),
        ({"rounds": 0}, "placing.rounds must be at least 1, not 0"),
    ],
)
def test_settings_that_can_not_be_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(placing(), **changes)


def test_a_graph_without_a_known_entity_is_refused() -> None:
    entities, relations, _ = graph()
    with pytest.raises(ValueError, match="an entity that is known"):
        place(entities, relations, torch.zeros(16, dtype=torch.bool), FACTS, placing())
