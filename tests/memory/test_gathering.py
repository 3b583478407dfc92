"""Facts gathered by tensors are those that the processor finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import offsets, slots
from pipeline.memory.gathering import ResidentFacts
from tests.memory.bases import ENTITIES, RELATIONS, TRIPLES, Triple, built, rows
from tests.memory.test_slots import CROWDED

CPU = torch.device("cpu")


@settings(max_examples=80, deadline=None)
@given(
    facts=st.lists(TRIPLES, max_size=60) | st.lists(CROWDED, max_size=60),
    data=st.data(),
    seed=st.integers(0, 99),
    n=st.integers(1, 9),
    looked_at=st.integers(1, ENTITIES),
    hub=st.sampled_from([0, 3, 100]),
    narrow=st.sampled_from([1 << 16, 4]),
)
def test_facts_and_their_order_are_those_of_the_processor(
    tmp_path_factory: pytest.TempPathFactory,
    facts: list[Triple],
    data: st.DataObject,
    seed: int,
    n: int,
    looked_at: int,
    hub: int,
    narrow: int,
) -> None:
    """With twins among the relations, hubs, facts that are dead, and starts that lie far apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offsets, "NARROW", narrow)
        base, _ = built(tmp_path_factory.mktemp("base") / "base", [rows(facts)])
    dead = sorted(data.draw(st.sets(st.integers(0, len(base) - 1)))) if len(base) else []
    random = torch.Generator().manual_seed(seed)
    heads = torch.stack([torch.randperm(ENTITIES, generator=random)[:looked_at] for _ in range(3)])
    heads[1, 0] = -1
    near = torch.randn(heads.shape, generator=random).sort(dim=1, descending=True).values
    near[2, -1] = -torch.inf
    logits = torch.randn(3, RELATIONS, generator=random)
    logits[:, -1] = logits[:, -2]
    shares = torch.log_softmax(logits, dim=-1)
    gone = np.array(dead, np.int64)
    right = slots.search(base, heads, near, shares, 0.5, n, gone, hub)
    held = ResidentFacts(base, CPU)
    found = held.found(heads, near, shares, 0.5, n, torch.from_numpy(gone), hub)
    for left, same in zip(found.candidates, right.candidates, strict=True):
        assert torch.equal(left, same)
    assert torch.equal(found.places, right.places)
    assert torch.equal(found.left_out, right.left_out)
    every = torch.arange(ENTITIES)
    assert held.headed(every).tolist() == (base.counts(every.numpy()) > 0).tolist()
