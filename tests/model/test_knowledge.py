"""Attention in base space against the formulas, and the two ways to put facts beside a sequence."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.knowledge import KnowledgeMaps, scores, shares, size_shift, streamed

B, H, T, S, D, P = 2, 3, 4, 5, 8, 12


class Fused(NamedTuple):
    """What a layer reads from facts and sequence."""

    sequence: Float[Tensor, "B H T S"]
    """Weights of the sequence's positions."""
    facts: Float[Tensor, "B H T M"]
    """Weights of the facts; with those of the sequence they sum to 1."""


def joint(sequence: Float[Tensor, "B H T S"], facts: Float[Tensor, "B H T M"], shift: float = 0.0) -> Fused:
    """Return one softmax over facts and sequence (KBLaM).

    Args:
        sequence: logits of the sequence's positions; the smallest number of their type where none is seen.
        facts: logits of the facts, -inf where there is none.
        shift: added to the logits of the facts: log C - log M when KBLaM answers, so that M facts together
            weigh about as much as C.
    """
    both = torch.softmax(torch.cat([facts + shift, sequence], dim=-1).float(), dim=-1).to(sequence.dtype)
    return Fused(both[..., facts.shape[-1] :], both[..., : facts.shape[-1]])


def mixed(sequence: Float[Tensor, "B H T S"], facts: Float[Tensor, "B H T M"]) -> Fused:
    """Return two softmaxes, weighed by λ_kg = Σ e^s / (Σ e^s + Σ e^seq) and 1 - λ_kg (AtlasKV).

    Args:
        sequence: as for `joint`.
        facts: logits of the facts that were not pruned, -inf where there is none.
    """
    totals = torch.stack([facts.float().logsumexp(dim=-1), sequence.float().logsumexp(dim=-1)], dim=-1)
    share = torch.softmax(totals, dim=-1)
    of_facts = torch.softmax(facts.float(), dim=-1).nan_to_num() * share[..., :1]
    of_sequence = torch.softmax(sequence.float(), dim=-1) * share[..., 1:]
    return Fused(of_sequence.to(sequence.dtype), of_facts.to(sequence.dtype))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def maps(normalised: bool = True, layers: int = 2) -> KnowledgeMaps:
    torch.manual_seed(3)
    return KnowledgeMaps(P, layers, H, D, normalised)


def projected(made: KnowledgeMaps, keys: Tensor) -> Tensor:
    """All keys of all layers as the papers make them: [M, layers, H, D]."""
    flat = keys @ made.keys.flatten(0, 2).T
    if made.normalised:
        flat = F.layer_norm(flat, flat.shape[-1:])
    return flat.view(len(keys), *made.keys.shape[:3])


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_scores_in_base_space_are_those_of_projected_keys(normalised: bool, count: int) -> None:
    made, keys, query = maps(normalised), drawn(count, P), drawn(B, H, T, D)
    for layer in range(2):
        found = scores(made.fold(query, layer), keys, made.scale(keys))
        expected = torch.einsum("bhtd,mhd->bhtm", query, projected(made, keys)[:, layer]) / math.sqrt(D)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_row_may_have_facts_of_its_own() -> None:
    made, keys, query = maps(), drawn(B, 6, P), drawn(B, H, T, D)
    scale = torch.stack([made.scale(row) for row in keys])
    found = scores(made.fold(query, 0), keys, scale)
    for row in range(B):
        alone = scores(made.fold(query[row : row + 1], 0), keys[row], made.scale(keys[row]))
        torch.testing.assert_close(found[row : row + 1], alone)


def test_values_may_be_averaged_before_they_are_mapped() -> None:
    made, values = maps(), drawn(9, P)
    weights = torch.softmax(drawn(B, H, T, 9), dim=-1)
    found = made.read(torch.einsum("bhtm,mp->bhtp", weights, values), 1)
    mapped = torch.einsum("mp,hdp->mhd", values, made.values[1])
    torch.testing.assert_close(found, torch.einsum("bhtm,mhd->bhtd", weights, mapped), rtol=1e-5, atol=1e-5)


@given(count=st.integers(1, 40), seed=st.integers(0, 50), size=st.floats(0.1, 20))
@settings(max_examples=40, deadline=None)
def test_without_shift_and_pruning_the_two_fusions_are_one(count: int, seed: int, size: float) -> None:
    sequence, facts = size * drawn(B, H, T, S, seed=seed), size * drawn(B, H, T, count, seed=seed)
    one, two = joint(sequence, facts), mixed(sequence, facts)
    torch.testing.assert_close(one.facts, two.facts, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.sequence, two.sequence, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.facts.sum(-1) + one.sequence.sum(-1), torch.ones(B, H, T))


def test_no_fact_leaves_the_sequence_as_it_was() -> None:
    sequence, none = drawn(B, H, T, S), torch.full((B, H, T, 3), -torch.inf)
    for fused in (joint(sequence, none), mixed(sequence, none)):
        assert not fused.facts.any()
        torch.testing.assert_close(fused.sequence, torch.softmax(sequence, dim=-1))


def test_the_order_of_facts_does_not_matter() -> None:
    sequence, facts, order = drawn(B, H, T, S), drawn(B, H, T, 7), torch.randperm(7)
    for fuse in (joint, mixed):
        torch.testing.assert_close(
            fuse(sequence, facts[..., order]).facts, fuse(sequence, facts).facts[..., order]
        )


def test_the_shift_makes_many_equal_facts_weigh_as_much_as_a_hundred() -> None:
    sequence = torch.zeros(1, 1, 1, 4)
    total = [
        joint(sequence, torch.zeros(1, 1, 1, count), size_shift(count, 100)).facts.sum().item()
        for count in (100, 1_000, 10_000)
    ]
    assert total == pytest.approx([100 / 104] * 3, rel=1e-5)


def test_gradients_reach_both_maps() -> None:
    made, keys = maps(), drawn(6, P)
    weights = torch.softmax(scores(made.fold(drawn(B, H, T, D), 0), keys, made.scale(keys)), dim=-1)
    made.read(torch.einsum("bhtm,mp->bhtp", weights, keys), 0).square().sum().backward()
    assert made.keys.grad is not None
    assert made.keys.grad[0].abs().sum() > 0
    assert made.values.grad is not None
    assert made.values.grad[0].abs().sum() > 0


@given(count=st.integers(0, 50), block=st.integers(1, 60), size=st.floats(0.1, 30), shift=st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_reading_in_blocks_is_the_joint_softmax(count: int, block: int, size: float, shift: float) -> None:
    made, keys, values = maps(), drawn(count, P, seed=1), drawn(count, P, seed=2)
    folded, sequence = made.fold(size * drawn(B, H, T, D), 0), size * drawn(B, H, T, S)
    logits = scores(folded, keys, made.scale(keys))
    expected = joint(sequence, logits, shift)
    read = streamed(folded, keys, values, made.scale(keys), block)
    share = shares(sequence.logsumexp(dim=-1), read.total, shift)
    torch.testing.assert_close(share, expected.facts.sum(dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        share[..., None] * read.averaged,
        torch.einsum("bhtm,mp->bhtp", expected.facts, values),
        rtol=1e-3,
        atol=1e-4,
    )
