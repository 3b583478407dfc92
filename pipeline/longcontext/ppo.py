r"""Proximal policy optimisation of what is retrieved (arXiv 1707.06347), one decision a question.

    R = α · TaskLoss⁻¹ − β · retrieved blocks,    TaskLoss⁻¹ = f / (f + loss),

with f the floor that keeps the inverse of a vanishing loss finite: a certain answer earns α, one whose loss
is f half of it. The advantage is A = R − V, and

    L = −E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)] + c_v (R − V)² − c_e H,    ρ = π / π_old.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.longcontext.policy import NONE
from pipeline.longcontext.settings import Ppo


def reward(lost: Float[Tensor, " B"], chosen: Int[Tensor, "B K"], ppo: Ppo) -> Float[Tensor, " B"]:
    """Return R.

    Args:
        lost: mean cross-entropy of the right answer, in nats a token.
        chosen: retrieved blocks, -1 for none.
        ppo: α, β and f.
    """
    inverse = ppo.floor / (ppo.floor + lost)
    return ppo.alpha * inverse - ppo.beta * (chosen != NONE).sum(dim=1)


def advantages(rewards: Float[Tensor, " B"], values: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return R − V, centred and scaled over the batch."""
    raw = rewards - values
    return (raw - raw.mean()) / (raw.std(unbiased=False) + 1e-6)


def objective(
    new: Float[Tensor, " B"],
    old: Float[Tensor, " B"],
    advantage: Float[Tensor, " B"],
    entropy: Float[Tensor, " B"],
    values: Float[Tensor, " B"],
    rewards: Float[Tensor, " B"],
    ppo: Ppo,
) -> Float[Tensor, ""]:
    """Return L; see the module.

    Args:
        new: log π of what was drawn, now.
        old: log π when it was drawn.
        advantage: A.
        entropy: H.
        values: V, now.
        rewards: R.
        ppo: ε, c_v and c_e.
    """
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - ppo.clip, 1 + ppo.clip)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    return -gain.mean() + ppo.value_weight * (rewards - values).square().mean() - ppo.entropy * entropy.mean()
