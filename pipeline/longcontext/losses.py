r"""What the retriever learns from: which blocks are relevant, and the hybrid loss of the DSRAM proposal."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.longcontext.policy import NEVER, NONE
from pipeline.longcontext.settings import Hybrid
from pipeline.shapes import CandidateScores

TINY = 1e-30


def relevance_loss(
    scores: CandidateScores, gold: Bool[Tensor, "B N"], known: Bool[Tensor, "B N"], margin: float
) -> Float[Tensor, ""]:
    r"""Return how far scores are from telling relevant blocks from all others, in nats a question.

    A contrastive term, −log Σ_gold e^s / Σ e^s, orders blocks. Two hinges make 0 their border, for any
    number of blocks: relevant ones are to score above `margin`, the highest of the others below −`margin`.

    Args:
        scores: of the blocks of all texts of the batch.
        gold: relevant blocks; a question without any teaches only the second hinge.
        known: false for blocks of which it isn't known whether they answer the question.
        margin: nats.
    """
    others = scores.masked_fill(gold | ~known, NEVER)
    wrong = F.softplus(margin + others.logsumexp(dim=1))
    has = gold.any(dim=1)
    count = gold.sum(dim=1).clamp(min=1)
    right = (F.softplus(margin - scores) * gold).sum(dim=1) / count
    ranked = scores.masked_fill(~known & ~gold, NEVER)
    first = ranked.logsumexp(dim=1) - scores.masked_fill(~gold, NEVER).logsumexp(dim=1)
    return torch.where(has, first + right + wrong, wrong).mean()


def gates(
    scores: CandidateScores, chosen: Int[Tensor, "B K"], temperature: float
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    r"""Return the gates σ(s / τ) of chosen blocks, 0 where there is none, and their logarithms.

    Added to the logits of a block's tokens, a gate's logarithm multiplies what they weigh: an open one leaves
    attention as it is, a closed one takes the block out of it.
    """
    picked = scores.gather(1, chosen.clamp(min=0)) / temperature
    there = chosen != NONE
    return picked.sigmoid() * there, F.logsigmoid(picked).masked_fill(~there, 0.0)


def hybrid_loss(
    lost: Float[Tensor, " B"], gates: Float[Tensor, "B K"], spread: Float[Tensor, " B"], hybrid: Hybrid
) -> Float[Tensor, ""]:
    r"""Return L_total = L_task + λ₁ Σ gates + λ₂ L_att, in nats.

    ‖retrieved‖₀ counts, and has no gradient; the sum of gates is its expectation where each block is fetched
    with the probability of its gate.

    Args:
        lost: L_task, the cross-entropy of the answers.
        gates: of the candidates.
        spread: L_att, of `attention_term`.
        hybrid: λ₁ and λ₂.
    """
    return (lost + hybrid.token_cost * gates.sum(dim=1) + hybrid.attention_cost * spread).mean()


def attention_term(weights: Float[Tensor, "B H T S"], kind: str) -> Float[Tensor, " B"]:
    r"""Return L_att of one layer, averaged over heads and queries.

    `frobenius` is ‖A‖_F² as the proposal writes it. Each row of A sums to 1, so its squared norm is least
    where attention is uniform and largest where it is sparse: minimising it *spreads* attention, the opposite
    of what the proposal names it for. `entropy`, −Σ a log a, is what falls where attention grows sparse.

    Raises:
        ValueError: there is no such term.
    """
    if kind == "frobenius":
        rows = weights.square().sum(dim=-1)
    elif kind == "entropy":
        # what is masked weighs 0, where the logarithm has no gradient
        rows = -(weights * weights.clamp(min=TINY).log()).sum(dim=-1)
    else:
        raise ValueError(f"attention_term must be frobenius or entropy, not {kind!r}")
    return rows.mean(dim=(1, 2))
