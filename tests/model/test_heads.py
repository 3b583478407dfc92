"""Heads, null fact, shares and L_Aux: slow references, what must not change them, and a few SGD steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.memory.facts import Candidates
from pipeline.model.heads import NullFact, RetrievalHeads, StateCorrection
from pipeline.model.losses import auxiliary_loss
from pipeline.model.selection import shares, spread


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def candidates(batch: int = 3, count: int = 5) -> Candidates:
    entity, relation = drawn(batch, count, seed=1) * 5, -drawn(batch, count, seed=2).abs()
    facts = torch.arange(count).expand(batch, count)
    return Candidates(facts, entity + relation, entity, relation, torch.full_like(facts, -1))


def test_the_heads_start_as_the_encoder_and_give_unit_vectors_times_their_scale() -> None:
    torch.manual_seed(0)
    heads = RetrievalHeads(6, 4, 27.0, 20.0)
    text = drawn(3, 6)
    unit = text / text.norm(dim=-1, keepdim=True)
    query = heads(text)
    torch.testing.assert_close(query.key, 27 * unit)
    torch.testing.assert_close(query.relation, 20 * unit)
    assert heads.temperature == pytest.approx(1 / 27)
    with torch.no_grad():
        for parameter in heads.entity.parameters():
            parameter.normal_()
    moved = heads(text)
    torch.testing.assert_close(moved.key.norm(dim=-1), torch.full((3,), 27.0))
    assert torch.equal(moved.relation, query.relation)


def test_the_correction_is_a_projection_of_the_normalised_state() -> None:
    correction = StateCorrection(4, 6)
    states, keys = drawn(2, 4), drawn(2, 3, 6, seed=1)
    assert torch.equal(correction(states, keys), torch.zeros(2, 3))
    with torch.no_grad():
        correction.map.weight.copy_(drawn(6, 4, seed=2))
    found = correction(states, keys)
    for row in range(2):
        h = states[row]
        h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt()
        for place in range(3):
            slow = (correction.map.weight @ h) @ keys[row, place] / math.sqrt(6)
            assert found[row, place].item() == pytest.approx(slow.item(), rel=1e-4, abs=1e-5)


def moved_null() -> NullFact:
    """Return a null fact that doesn't start at a constant."""
    null = NullFact(3)
    with torch.no_grad():
        for place, parameter in enumerate(null.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=10 + place))
    return null


def test_the_null_fact_starts_at_a_constant_below_the_best_candidate() -> None:
    found = candidates()
    null = NullFact(3)
    score = null(found.scores, null.features(found.scores, found, torch.tensor(10.0)))
    torch.testing.assert_close(score[:, 0], found.scores.max(dim=-1).values - 3)


def test_the_null_fact_is_a_perceptron_of_how_the_best_candidate_fits() -> None:
    null, found, scale = moved_null(), candidates(), torch.tensor(10.0)
    for row in range(3):
        scores = found.scores[row].tolist()
        best = max(range(5), key=lambda place: scores[place])
        features = [
            found.entity[row, best].item() / 10,
            found.relation[row, best].item() / 10,
            min(scores[best] - sorted(scores)[-2], 20) / 10,
            math.log(math.exp(scores[best]) / sum(map(math.exp, scores))),
        ]
        inner = null.inner.weight @ torch.tensor(features) + null.inner.bias
        gelu = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in inner.tolist()]
        margin = sum(w * x for w, x in zip(null.outer.weight[0].tolist(), gelu, strict=True))
        slow = scores[best] + margin + null.outer.bias.item()
        assert null(found.scores, null.features(found.scores, found, scale))[row].item() == pytest.approx(
            slow, rel=1e-4
        )


@given(st.floats(-50, 50))
def test_a_constant_added_to_the_scores_changes_no_probability(constant: float) -> None:
    found, null, scale, temperature = candidates(), moved_null(), torch.tensor(10.0), torch.tensor(1.3)
    before = shares(found.scores, null(found.scores, null.features(found.scores, found, scale)), temperature)
    scores = found.scores + constant
    after = shares(scores, null(scores, null.features(scores, found, scale)), temperature)
    torch.testing.assert_close(after.facts, before.facts, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.null, before.null, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 0])
def test_the_null_fact_of_few_candidates_is_finite(count: int) -> None:
    found = candidates()
    scores = found.scores.clone()
    scores[:, count:] = -math.inf
    null = moved_null()
    score = null(scores, null.features(scores, found, torch.tensor(10.0)))
    assert score.isfinite().all()
    whole = shares(scores, score, torch.tensor(1.0))
    torch.testing.assert_close(whole.facts.exp().sum(dim=-1), torch.ones(3))
    assert whole.null.isfinite().all()


def test_no_gradient_of_the_null_fact_reshapes_the_retrieval() -> None:
    found = candidates()
    scores = found.scores.clone().requires_grad_()
    null = moved_null()
    null(scores, null.features(scores, found, torch.tensor(10.0))).sum().backward()
    assert scores.grad is None
    for parameter in null.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_shares_are_a_softmax_over_the_facts_with_the_null_fact_beside_them() -> None:
    scores, null = drawn(2, 3), drawn(2, 1, seed=1)
    penalty = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 2.0]])
    found = shares(scores, null, torch.tensor(0.5), penalty)
    for row in range(2):
        weights = [
            math.exp(2 * s - p) for s, p in zip(scores[row].tolist(), penalty[row].tolist(), strict=True)
        ]
        assert found.facts[row].exp().tolist() == pytest.approx([w / sum(weights) for w in weights])
        both = [math.exp(2 * value) for value in [*scores[row].tolist(), null[row].item()]]
        assert found.null[row].exp().item() == pytest.approx(both[-1] / sum(both))


def test_a_sure_null_fact_takes_nothing_from_what_is_read() -> None:
    scores = drawn(2, 3)
    few, many = (shares(scores, torch.full((2, 1), value), torch.tensor(1.0)) for value in (-50.0, 50.0))
    assert torch.equal(few.facts, many.facts)
    assert many.null.exp().min() > 0.99 > 0.01 > few.null.exp().max()


def test_a_row_without_facts_passes_no_gradient_that_is_not_finite() -> None:
    scores = drawn(2, 3)
    scores[0] = -math.inf
    scores.requires_grad_()
    shares(scores, drawn(2, 1), torch.tensor(1.0)).facts[1].sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@given(st.permutations(range(4)))
def test_values_of_a_slot_are_set_apart_by_their_texts_alone(order: list[int]) -> None:
    slots, texts = ["togo", "togo", "peru", "togo"], ["Ghana", "Benin", "Chile", "Burkina Faso"]
    (row,) = spread([[slots[i] for i in order]], [[texts[i] for i in order]], 1.5)
    assert [row[order.index(i)] for i in range(4)] == [3.0, 0.0, 0.0, 1.5]


def slow_loss(scores: Tensor, gold: Tensor, null: Tensor | None) -> float:
    losses = []
    for row in range(len(scores)):
        logits = scores[row].tolist() + ([] if null is None else null[row].tolist())
        right = [place for place, is_gold in enumerate(gold[row].tolist()) if is_gold]
        if not right and null is not None:
            right = [len(logits) - 1]
        if right:
            total = math.log(sum(math.exp(value) for value in logits))
            losses.append(sum(total - logits[place] for place in right) / len(right))
    return sum(losses) / len(losses)


GOLD = {
    "one each": [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]],
    "several": [[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]],
    "some without": [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
    "none": [[0, 0, 0, 0]] * 3,
}


@pytest.mark.parametrize("kind", GOLD)
@pytest.mark.parametrize("with_null", [True, False])
def test_the_auxiliary_loss_is_the_cross_entropy_against_the_gold_facts(kind: str, with_null: bool) -> None:
    scores, gold = drawn(3, 4), torch.tensor(GOLD[kind], dtype=torch.bool)
    null = drawn(3, 1, seed=1) if with_null else None
    if kind == "none" and not with_null:
        with pytest.raises(ValueError, match="no question of the batch has a gold fact among its candidates"):
            auxiliary_loss(scores, gold)
        return
    assert auxiliary_loss(scores, gold, null).item() == pytest.approx(slow_loss(scores, gold, null), rel=1e-4)


def test_a_question_that_is_not_told_of_adds_nothing_to_the_auxiliary_loss() -> None:
    scores, gold = drawn(3, 4), torch.tensor(GOLD["some without"], dtype=torch.bool)
    null, told = drawn(3, 1, seed=1), torch.tensor([True, False, True])
    kept = auxiliary_loss(scores[told], gold[told], null[told])
    assert auxiliary_loss(scores, gold, null, told).item() == pytest.approx(kept.item(), rel=1e-6)
    with pytest.raises(ValueError, match="no question of the batch has a gold fact"):
        auxiliary_loss(scores, gold, null, torch.zeros(3, dtype=torch.bool))


def test_padded_candidates_add_nothing_to_the_auxiliary_loss_and_no_nan_to_its_gradient() -> None:
    scores, gold = drawn(3, 4), torch.tensor(GOLD["one each"], dtype=torch.bool)
    padded = torch.cat([scores, torch.full((3, 2), -math.inf)], dim=1).requires_grad_()
    loss = auxiliary_loss(padded, torch.nn.functional.pad(gold, (0, 2)))
    assert loss.item() == pytest.approx(auxiliary_loss(scores, gold).item(), rel=1e-6)
    loss.backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    assert (padded.grad[:, 4:] == 0).all()


@pytest.mark.parametrize("kind", ["several", "some without"])
def test_a_few_steps_raise_the_scores_of_gold_facts(kind: str) -> None:
    scores, gold = drawn(3, 4).requires_grad_(), torch.tensor(GOLD[kind], dtype=torch.bool)
    null = drawn(3, 1, seed=1).requires_grad_()
    before, first = torch.log_softmax(torch.cat([scores, null], 1), -1).detach(), None
    for _ in range(5):
        loss = auxiliary_loss(scores, gold, null)
        first = first if first is not None else loss.item()
        loss.backward()
        with torch.no_grad():
            for tensor in (scores, null):
                assert tensor.grad is not None
                tensor -= tensor.grad
                tensor.grad = None
    assert auxiliary_loss(scores, gold, null).item() < first
    after = torch.log_softmax(torch.cat([scores, null], 1), -1).detach()
    target = torch.cat([gold, ~gold.any(dim=-1, keepdim=True)], 1)
    assert (after.exp() * target).sum() > (before.exp() * target).sum()
