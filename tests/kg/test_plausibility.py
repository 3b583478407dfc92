"""Places of tails, on vectors of which the right answer is known."""

import math

import numpy as np
import pytest
import torch

from pipeline.kg.plausibility import LEAST, Plausibility, limit, sieve

HEADS, TAILS = 20, 10


def world(noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Heads at h, tails at h∘r of every other head, so that a head's own tail is where it points."""
    random = torch.Generator().manual_seed(0)
    heads = torch.polar(
        torch.rand(HEADS, 4, generator=random) + 0.5, torch.rand(HEADS, 4, generator=random) * 6
    )
    rotation = torch.polar(torch.ones(1, 4), torch.rand(1, 4, generator=random) * 6)
    tails = heads[:TAILS] * rotation + noise * torch.randn(TAILS, 4, generator=random)
    nothing = torch.zeros(1, 4, dtype=heads.dtype)
    facts = np.array([[head, 0, HEADS + head] for head in range(TAILS)])
    return torch.cat([heads, tails, nothing]), rotation, facts


def test_a_true_tail_comes_first_and_the_places_of_all_are_their_ranks() -> None:
    entities, rotation, facts = world()
    judge = Plausibility(entities, rotation, facts)
    assert judge.places(facts).tolist() == [0.0] * TAILS
    every = np.array([[3, 0, HEADS + tail] for tail in range(TAILS)])
    assert sorted(judge.places(every).tolist()) == pytest.approx([rank / TAILS for rank in range(TAILS)])
    distance = (entities[3] * rotation[0] - entities[HEADS : HEADS + TAILS]).abs().sum(dim=-1)
    assert judge.places(every).argsort().tolist() == distance.argsort().tolist()


def test_where_nothing_is_known_there_is_no_place() -> None:
    entities, rotation, facts = world()
    unknown = HEADS + TAILS
    judge = Plausibility(entities, rotation, facts)
    assert judge.places(np.array([[unknown, 0, HEADS], [0, 0, unknown]])).isnan().all()
    few = Plausibility(entities, rotation, facts[: LEAST - 1])
    assert few.places(facts).isnan().all()
    assert sieve(few, 0.0)(facts).all(), "nothing speaks against them"


def test_the_limit_keeps_its_share_of_true_facts() -> None:
    entities, rotation, facts = world(noise=0.5)
    judge = Plausibility(entities, rotation, facts)
    places = judge.places(facts)
    at_most = limit(places, 0.8)
    assert sieve(judge, at_most)(facts).mean() >= 0.8
    assert sieve(judge, limit(places, 1.0))(facts).all()
    false = np.array([[head, 0, HEADS + (head + 5) % TAILS] for head in range(TAILS)])
    assert sieve(judge, at_most)(false).mean() < 0.8
    with pytest.raises(ValueError, match="no fact has a place"):
        limit(torch.tensor([math.nan]), 0.9)
