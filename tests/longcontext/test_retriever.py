from pathlib import Path

import pytest
import torch

from pipeline.config import UserError
from pipeline.longcontext.losses import attention_term, gates, hybrid_loss, relevance_loss
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.settings import Hybrid

WIDTH, PARTS, SIZE = 24, 2, 6


def retriever(seed: int = 0) -> Retriever:
    torch.manual_seed(seed)
    made = Retriever(WIDTH, kept=12, parts=PARTS, size=SIZE)
    made.calibrate(torch.randn(400, WIDTH) * torch.linspace(0.1, 8, WIDTH) + 3)
    return made


def states(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)) + 3


def test_whitened_states_have_one_length_and_no_large_direction() -> None:
    made = retriever()
    whitened = made.whitened(torch.randn(2000, WIDTH) * torch.linspace(0.1, 8, WIDTH) + 3)
    torch.testing.assert_close(whitened.norm(dim=-1), torch.full((2000,), 12**0.5))
    spread = torch.linalg.eigvalsh(whitened.T @ whitened / 2000)
    assert spread.max() / spread.min() < 3


def test_a_block_is_scored_by_its_best_part() -> None:
    made, block, asking = retriever(), states(1, 1, 8), states(1, 3, seed=2)
    query = made.query(asking)
    both = made.scores(query, made.summaries(block))
    halves = [made.asks.forward and made.blocks(made.whitened(part)) for part in block[0, 0].split(4)]
    alone = [(query[0] @ half) * made.sharpness.exp() - made.threshold for half in halves]
    torch.testing.assert_close(both[0, 0], max(alone))


def test_equal_words_meet_before_anything_was_learned() -> None:
    made = retriever()
    block = states(1, 5, 8)
    scores = made.scores(made.query(block[:, 3, :4]), made.summaries(block))
    assert int(scores.argmax()) == 3


def test_gradients_reach_every_parameter() -> None:
    made = retriever()
    scores = made.scores(made.query(states(2, 3, seed=4)), made.summaries(states(2, 5, 8)))
    gold = torch.zeros(2, 5, dtype=torch.bool)
    gold[0, 1] = True
    relevance_loss(scores, gold, torch.ones_like(gold), margin=1.0).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_saved_and_loaded_it_scores_alike(tmp_path: Path) -> None:
    made = retriever()
    made.save(tmp_path / "retriever.safetensors")
    again = Retriever.load(tmp_path / "retriever.safetensors")
    query, summaries = made.query(states(2, 3)), made.summaries(states(2, 5, 8))
    torch.testing.assert_close(
        again.scores(again.query(states(2, 3)), again.summaries(states(2, 5, 8))),
        made.scores(query, summaries),
    )


def test_a_file_that_holds_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors: holds no retriever"):
        Retriever.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("kept", "size"), [(4, 6), (30, 6), (12, 0)])
def test_sizes_that_do_not_fit_are_refused(kept: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"kept must lie between size and 24, not {kept} with size {size}"):
        Retriever(WIDTH, kept, 2, size)


def test_a_block_that_has_no_such_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="a block of 7 tokens can't be cut into 2 parts"):
        retriever().summaries(states(1, 2, 7))


def test_relevance_moves_gold_blocks_above_the_stop_action_and_others_below() -> None:
    scores = torch.zeros(2, 4, requires_grad=True)
    gold = torch.tensor([[True, False, False, False], [False] * 4])
    known = torch.tensor([[True, True, True, False], [True] * 4])
    optimiser = torch.optim.SGD([scores], lr=0.5)
    for _ in range(300):
        optimiser.zero_grad()
        relevance_loss(scores, gold, known, margin=2.0).backward()
        optimiser.step()
    found = scores.detach()
    assert found[0, 0] > 2
    assert (found[0, 1:3] < -2).all()
    assert found[0, 3] == 0  # it isn't known whether it answers
    assert (found[1] < -2).all()


def hybrid(**changes: float) -> Hybrid:
    values = {"steps": 1, "learning_rate": 0.1, "questions": 1, "blocks": 1, "temperature": 1.0}
    costs = {"token_cost": 0.0, "attention_cost": 0.0, "attention_term": "entropy"}
    return Hybrid(**(values | costs | changes))  # type: ignore[arg-type]


def test_each_term_of_the_hybrid_loss_moves_what_it_should() -> None:
    lost, spread = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])
    scores = torch.zeros(2, 3, requires_grad=True)
    chosen = torch.tensor([[0, 2], [1, -1]])
    opened, logarithm = gates(scores, chosen, temperature=0.5)
    assert opened.tolist() == [[0.5, 0.5], [0.5, 0.0]]
    torch.testing.assert_close(logarithm[0].exp(), opened[0])
    assert hybrid_loss(lost, opened, spread, hybrid()) == 2.0
    assert hybrid_loss(lost, opened, spread, hybrid(attention_cost=2.0)) == 3.0
    hybrid_loss(lost, opened, spread, hybrid(token_cost=0.1)).backward()
    assert scores.grad is not None
    assert scores.grad[[0, 0, 1], [0, 2, 1]].min() > 0  # a step down closes the gates
    assert scores.grad[[0, 1, 1], [1, 0, 2]].abs().max() == 0


def test_frobenius_falls_where_attention_spreads_and_entropy_where_it_gathers() -> None:
    even, sharp = torch.full((1, 1, 1, 4), 0.25), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    assert attention_term(even, "frobenius") < attention_term(sharp, "frobenius")
    assert attention_term(even, "entropy") > attention_term(sharp, "entropy")
    weights = sharp.clone().requires_grad_()
    attention_term(weights, "entropy").sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()
    with pytest.raises(ValueError, match="attention_term must be frobenius or entropy, not 'l1'"):
        attention_term(even, "l1")
