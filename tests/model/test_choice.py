"""The choice of facts on the device against the host's."""

import pytest
import torch

from pipeline.model.choice import _before, _wanted
from pipeline.model.selection import enough, spread


@pytest.mark.parametrize("seed", range(20))
def test_values_of_one_slot_are_spread_in_the_order_of_their_texts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randint(0, 2, (2, 6, 5), generator=generator)
    ranks = torch.randint(0, 3, (6, 5), generator=generator)
    none = torch.rand(6, 5, generator=generator) < 0.2
    pairs = [list(zip(*row, strict=True)) for row in slots.movedim(1, 0).tolist()]
    lacks = none.tolist()
    told = [
        [None if gone else pair for pair, gone in zip(*rows, strict=True)]
        for rows in zip(pairs, lacks, strict=True)
    ]
    texts = [
        ["" if gone else f"text {rank}" for rank, gone in zip(*rows, strict=True)]
        for rows in zip(ranks.tolist(), lacks, strict=True)
    ]
    found = 3.0 * _before(slots, ranks.masked_fill(none, -1), none)
    assert found.tolist() == spread(told, texts, 3.0)
    assert found.max() > 0


@pytest.mark.parametrize("mass", [0.3, 0.75, 0.999, 1.0])
def test_as_many_facts_are_read_as_are_enough(mass: float) -> None:
    scores = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 2
    log_shares = torch.log_softmax(scores.sort(dim=-1, descending=True).values, dim=-1)
    expected = [enough(row, mass) for row in log_shares.exp().tolist()]
    assert _wanted(log_shares, mass).sum(dim=-1).tolist() == expected
    assert _wanted(log_shares, mass)[:, 0].all()
