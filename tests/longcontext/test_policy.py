import itertools
import math

import pytest
import torch
from torch import Tensor

from pipeline.longcontext import ppo as proximal
from pipeline.longcontext.policy import NONE, Value, best, drawn, log_probability
from pipeline.longcontext.settings import Ppo

SCORES = torch.tensor([[0.5, -1.0, 2.0], [-3.0, 0.1, 0.0]])


def ppo(**changes: float) -> Ppo:
    values = {
        "rounds": 1,
        "questions": 1,
        "samples": 1,
        "epochs": 1,
        "batch": 1,
        "learning_rate": 0.1,
        "clip": 0.2,
        "entropy": 0.0,
        "value_weight": 0.5,
        "hidden": 4,
        "temperature": 1.0,
        "alpha": 1.0,
        "beta": 0.1,
        "floor": 0.5,
        "others": 0.0,
        "other_blocks": 4,
        "margin": 1.0,
    }
    return Ppo(**(values | changes))  # type: ignore[arg-type]


def outcomes(blocks: int, limit: int) -> list[list[int]]:
    """All that can be drawn, -1 behind."""
    return [
        [*order, *[NONE] * (min(limit, blocks) - count)]
        for count in range(min(limit, blocks) + 1)
        for order in itertools.permutations(range(blocks), count)
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_the_probabilities_of_all_outcomes_sum_to_one(limit: int) -> None:
    for row in SCORES:
        orders = torch.tensor(outcomes(3, limit))
        total, entropy = log_probability(row.expand(len(orders), 3), orders, limit)
        assert math.isclose(float(total.exp().sum()), 1.0, abs_tol=1e-5)
        assert (entropy > 0).all()


def test_a_log_probability_is_that_of_each_choice_among_what_is_left() -> None:
    e = [math.exp(score) for score in SCORES[0].tolist()]
    first = e[2] / (1 + sum(e))
    second = e[0] / (1 + e[0] + e[1])
    stop = 1 / (1 + e[1])
    order = torch.tensor([[2, 0, NONE]])
    assert math.isclose(
        float(log_probability(SCORES[:1], order, 3)[0]), math.log(first * second * stop), rel_tol=1e-5
    )
    assert math.isclose(
        float(log_probability(SCORES[:1], order[:, :2], 2)[0]), math.log(first * second), rel_tol=1e-5
    )


def test_draws_have_the_frequencies_that_their_probabilities_say() -> None:
    orders = outcomes(3, 2)
    count = 20000
    got = drawn(SCORES[:1].expand(count, 3), 2, torch.Generator().manual_seed(0)).tolist()
    right = log_probability(SCORES[:1].expand(len(orders), 3), torch.tensor(orders), 2)[0].exp()
    for order, share in zip(orders, right.tolist(), strict=True):
        deviation = math.sqrt(share * (1 - share) / count)
        assert abs(got.count(order) / count - share) < 5 * deviation + 1e-9


def test_the_best_are_those_above_the_threshold() -> None:
    assert best(SCORES, 2).tolist() == [[2, 0], [1, NONE]]
    assert best(SCORES, 5, threshold=-2.0).tolist() == [[2, 0, 1], [1, 2, NONE]]


def test_the_reward_pays_for_certainty_and_takes_for_blocks() -> None:
    lost = torch.tensor([0.0, 0.5, 0.5])
    chosen = torch.tensor([[1, NONE], [1, 2], [NONE, NONE]])
    torch.testing.assert_close(proximal.reward(lost, chosen, ppo()), torch.tensor([0.9, 0.3, 0.5]))


def test_no_step_is_taken_beyond_the_clip() -> None:
    new = torch.tensor([0.5, 0.1, -0.5], requires_grad=True)
    gain = torch.tensor([1.0, 1.0, -1.0])
    zeros = torch.zeros(3)
    proximal.objective(new, zeros, gain, zeros, zeros, zeros, ppo()).backward()
    assert new.grad is not None
    assert new.grad.tolist()[0] == 0  # already e^0.5 times as likely
    assert new.grad.tolist()[1] < 0  # may become likelier
    assert new.grad.tolist()[2] == 0  # already less likely


def learned(worth: Tensor, beta: float) -> Tensor:
    """Return the scores that PPO learns where block i lowers the loss by worth[i]."""
    settings = ppo(beta=beta, entropy=0.0)
    scores = torch.zeros(1, len(worth), requires_grad=True)
    critic = Value(2, 4)
    optimiser = torch.optim.Adam([scores, *critic.parameters()], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    query = torch.ones(64, 2)
    for _ in range(150):
        many = scores.detach().expand(64, -1)
        order = drawn(many, 3, generator)
        old, _ = log_probability(many, order, 3)
        taken = torch.zeros(64, len(worth) + 1).scatter(1, order.where(order != NONE, len(worth)), 1.0)
        rewards = proximal.reward(2.0 - taken[:, :-1] @ worth, order, settings)
        gains = proximal.advantages(rewards, critic(query, many).detach())
        for _ in range(2):
            many = scores.expand(64, -1)
            new, entropy = log_probability(many, order, 3)
            loss = proximal.objective(new, old, gains, entropy, critic(query, many), rewards, settings)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return scores.detach()[0]


def test_ppo_finds_the_blocks_that_are_worth_their_price() -> None:
    worth = torch.tensor([1.9, 0.0, 0.1, 0.0])
    scores = learned(worth, beta=0.1)
    # The first turns a loss of 2.0 into 0.1, worth 0.63; the third adds 0.17 to that.
    assert best(scores[None], 3).sort(dim=1).values.tolist() == [[NONE, 0, 2]]
    dear = learned(worth, beta=0.4)
    assert best(dear[None], 3).tolist()[0] == [0, NONE, NONE]
