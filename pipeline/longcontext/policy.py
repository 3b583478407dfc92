r"""The policy over blocks: one is drawn after the other, without replacement, until the stop action is drawn.

With scores s of the blocks and 0 of the stop action, and C the blocks that are left (Plackett–Luce),

    π(a) = e^{s_a} / (1 + Σ_{c ∈ C} e^{s_c}),    log π(a_1 … a_K, stop) = Σ_t log π(a_t).

After `limit` blocks the policy stops by itself. Where nothing is drawn at random, what is retrieved are the
`limit` best blocks that score above the stop action.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.shapes import CandidateScores

NONE = -1
"""Stands where a question has fewer blocks than others."""
NEVER = -1e9


def drawn(scores: CandidateScores, limit: int, generator: torch.Generator | None) -> Int[Tensor, "B K"]:
    """Draw blocks in the policy's order; -1 once it has stopped.

    The largest of scores with Gumbel noise, taken one after the other, are such a draw (arXiv 1903.06059):
    those before the stop action's own noise are the blocks.
    """
    uniform = torch.rand(len(scores), scores.shape[1] + 1, generator=generator, device=scores.device)
    noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
    noisy = torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=1) + noise
    best, order = noisy[:, :-1].topk(min(limit, scores.shape[1]), dim=1)
    return order.masked_fill(best < noisy[:, -1:], NONE)


def best(scores: CandidateScores, limit: int, threshold: float = 0.0) -> Int[Tensor, "B K"]:
    """Return the `limit` best blocks that score above `threshold`, best first; -1 behind them."""
    found, order = scores.topk(min(limit, scores.shape[1]), dim=1)
    return order.masked_fill(found <= threshold, NONE)


def log_probability(
    scores: CandidateScores, order: Int[Tensor, "B K"], limit: int
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return log π of drawn orders, and the mean entropy of the choices that led there, in nats.

    Args:
        scores: of the candidates.
        order: what was drawn, -1 after the stop.
        limit: blocks after which the policy stops by itself.
    """
    joined = torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=1)
    stop = scores.shape[1]
    total, entropy = scores.new_zeros(len(scores)), scores.new_zeros(len(scores))
    steps = scores.new_zeros(len(scores))
    open_: Bool[Tensor, " B"] = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    width = order.shape[1]
    for step in range(min(width + 1, limit, stop)):
        action = order[:, step] if step < width else order.new_full((len(order),), NONE)
        action = torch.where(action == NONE, stop, action)
        log_share = joined.log_softmax(dim=1)
        total = total + torch.where(open_, log_share.gather(1, action[:, None])[:, 0], 0.0)
        entropy = entropy - torch.where(open_, (log_share.exp() * log_share).sum(dim=1), 0.0)
        steps = steps + open_
        open_ = open_ & (action != stop)
        taken = torch.nn.functional.one_hot(action, stop + 1).bool() & open_[:, None]
        joined = joined.masked_fill(taken, NEVER)
    return total, entropy / steps.clamp(min=1)


class Value(nn.Module):
    """What reward the policy can expect for a question (the critic of PPO).

    Args:
        size: D, numbers of a query.
        hidden: of the layer between.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size + 3, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, query: Float[Tensor, "B D"], scores: CandidateScores) -> Float[Tensor, " B"]:
        """Return V from the query, the best two scores and how many blocks score above the stop action."""
        two = scores.topk(min(2, scores.shape[1]), dim=1).values
        two = torch.nn.functional.pad(two, (0, 2 - two.shape[1]))
        above = scores.sigmoid().sum(dim=1, keepdim=True)
        told = torch.cat([query, two / 10, above.log1p()], dim=1).detach()
        value: Tensor = self.layers(told)
        return value[:, 0]
