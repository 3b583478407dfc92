"""RotatE's losses against direct ones, and what reaches them: negatives, dropout and regularisation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pipeline.kg.rotate import SIDES, Rotate, build, distances, rotated
from pipeline.kg.rotate_loss import batch_loss, drawn, full_loss, sampled_loss
from pipeline.kg.rotate_steps import CopiedRows, DenseSteps
from tests.rotations import laptop, ring

SAMPLED = ("self_adversarial", "shared")
TRAINERS = (*SAMPLED, "one_vs_all")


def small(**changes: object) -> Rotate:
    values: dict[str, object] = {"dimension": 4, "margin": 4.0, "negatives": 8, "sharing": 2}
    values |= {"initial_scale": 0.3, "inverse_relations": False, "device": "cpu"}
    return laptop(**(values | changes))


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.cfloat, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["l1", "l2", "squared"])
@pytest.mark.parametrize("trainer", SAMPLED)
def test_a_sampled_loss_is_the_one_written_out(norm: str, trainer: str) -> None:
    rotate, entities = small(trainer=trainer, norm=norm, adversarial_temperature=0.7), some(6, 4)
    queries = rotated(entities[:3], torch.tensor([[1j, -1, 1, -1j]] * 3), "tail")
    every = -distances(queries, entities, norm)
    negatives = drawn(rotate, 6, 3, torch.Generator().manual_seed(1))
    model = build(rotate, 6, 1, seed=0)
    found = sampled_loss(rotate, model.loss, queries, entities[[3, 4, 5], None], entities[negatives])
    # Of three facts, two share the first negatives and the third has the second ones.
    own = negatives[[0, 0, 1]] if trainer == "shared" else negatives
    scores = every.gather(1, own)
    weights = (0.7 * scores).softmax(dim=1)
    wrong = (weights * logsigmoid(-scores - 4.0)).sum(dim=1).mean()
    right = logsigmoid(4.0 + every[[0, 1, 2], [3, 4, 5]]).mean()
    assert found.item() == pytest.approx(-(right + wrong).item() / 2, rel=1e-4)


@pytest.mark.parametrize("norm", ["l1", "l2", "squared"])
def test_the_full_loss_is_the_one_written_out(norm: str) -> None:
    queries, entities, answers = some(3, 4, seed=1), some(6, 4), torch.tensor([3, 4, 5])
    every = -distances(queries, entities, norm)
    expected = (every.logsumexp(dim=1) - every[torch.arange(3), answers]).mean()
    found = full_loss(small(trainer="one_vs_all", norm=norm), queries, entities, answers)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("trainer", "sharing", "groups"),
    [("self_adversarial", 2, 9), ("shared", 2, 5), ("shared", 3, 3), ("shared", 100, 1)],
)
def test_negatives_are_drawn_for_each_group_among_all_entities(
    trainer: str, sharing: int, groups: int
) -> None:
    rotate = small(trainer=trainer, sharing=sharing, negatives=200)
    found = drawn(rotate, 5, 9, torch.Generator().manual_seed(0))
    assert found.shape == (groups, 200)
    assert set(found.flatten().tolist()) == set(range(5))
    assert torch.equal(found, drawn(rotate, 5, 9, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, drawn(rotate, 5, 9, torch.Generator().manual_seed(1)))


def test_the_answer_lies_nearest_the_query_where_a_fact_holds_on_either_side() -> None:
    rotate = small(trainer="shared")
    model, batch = build(rotate, 24, 3, seed=0), torch.tensor([[0, 1, 2], [5, 0, 7]])
    weight = model.entity_representations[0]._embeddings.weight
    turns = model.relation_representations[0](batch[:, 1]).detach()
    heads = model.entity_representations[0](batch[:, 0]).detach()
    weight.data[batch[:, 2]] = torch.view_as_real(heads * turns).flatten(1)
    vectors = CopiedRows(rotate, model, weight.detach(), batch, torch.Generator().manual_seed(0))
    for side, other in (SIDES, SIDES[::-1]):
        queries = rotated(vectors.given(side), vectors.turns(side), side)
        assert torch.allclose(queries, vectors.given(other), atol=1e-6)


def test_regularisation_is_the_sum_of_cubed_moduli_of_both_ends() -> None:
    batch = torch.from_numpy(ring()[:4])
    rotate = small(trainer="one_vs_all")
    model = build(rotate, 24, 3, seed=0)
    plain, heavy = (
        DenseSteps(replace(rotate, regularisation=weight), model).loss(batch, torch.Generator())
        for weight in (0.0, 2.0)
    )
    ends = model.entity_representations[0](batch[:, [0, 2]]).abs().pow(3).sum(dim=(1, 2)).mean()
    assert (heavy - plain).item() == pytest.approx(2 * ends.item(), rel=1e-4)


def test_dropout_zeroes_its_share_of_a_query_and_keeps_the_mean() -> None:
    rotate = small(trainer="shared", dropout=0.25, dimension=500)
    model, batch = build(rotate, 24, 3, seed=0), torch.from_numpy(ring()[:20])
    weight = model.entity_representations[0]._embeddings.weight.detach()
    vectors = CopiedRows(rotate, model, weight, batch, torch.Generator().manual_seed(0))
    seen: dict[str, Tensor] = {}

    def side_loss(side: str, queries: Tensor) -> Tensor:
        seen[side] = queries
        return queries.abs().sum()

    batch_loss(rotate, vectors, side_loss, torch.Generator().manual_seed(1))
    assert set(seen) == set(SIDES)
    for side, queries in seen.items():
        whole = rotated(vectors.given(side), vectors.turns(side), side)
        kept = queries != 0
        assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
        assert torch.allclose(queries[kept], whole[kept] / 0.75, rtol=1e-4)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_gradients_reach_entities_and_relations(trainer: str) -> None:
    rotate = small(trainer=trainer, inverse_relations=True)
    model = build(rotate, 24, 3, seed=0)
    steps = DenseSteps(rotate, model)
    steps.loss(torch.from_numpy(ring()), torch.Generator().manual_seed(0)).backward()
    for parameter in model.parameters():
        assert (parameter.grad.abs().sum(dim=1) > 0).all()
