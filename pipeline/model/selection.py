"""Which facts are read, and how probability is shared among them."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.facts import Candidates
from pipeline.model.system import Reply
from pipeline.shapes import CandidateScores


class Shares(NamedTuple):
    """How probability is shared among selected facts, and whether any of them answers."""

    facts: Float[Tensor, "B K"]
    """Log-probability of each selected fact, given that one answers."""
    null: Float[Tensor, "B 1"]
    """Log-probability that none answers."""


def shares(
    scores: Float[Tensor, "B K"],
    null: Float[Tensor, "B 1"],
    temperature: Float[Tensor, ""],
    penalty: Float[Tensor, "B K"] | None = None,
) -> Shares:
    """Return log softmax over the selected facts, and the null fact's log-probability beside them all.

    The null fact decides whether to answer. It takes nothing from the facts' own shares: a question that is
    answered is answered from facts that are read in full.

    Args:
        scores: of the selected facts; -inf where there is none.
        null: score of the null fact.
        temperature: of both.
        penalty: nats that are taken off facts before they share; see `spread`.
    """
    both = torch.log_softmax(torch.cat([scores, null], dim=-1) / temperature, dim=-1)
    held = (scores / temperature).clamp(min=-1e4)  # a row without any fact stays finite
    return Shares(torch.log_softmax(held if penalty is None else held - penalty, dim=-1), both[:, -1:])


def spread(
    slots: Sequence[Sequence[Hashable]], texts: Sequence[Sequence[str]], gap: float
) -> list[list[float]]:
    """Return what sets the values of one slot apart: 0, `gap`, 2 `gap` … nats in the order of their texts.

    They have one score, for they answer alike. Read with one weight, they would be blended: asked for a
    neighbour of Togo, the reader said "Benkina Faso", of Benin and Burkina Faso. The order of texts is that
    of nothing else: not of the facts' arrival, nor of the search.
    """
    rows: list[list[float]] = []
    for row_slots, row_texts in zip(slots, texts, strict=True):
        row, before = [0.0] * len(row_texts), Counter[Hashable]()
        for place in sorted(range(len(row_texts)), key=row_texts.__getitem__):
            row[place] = gap * before[row_slots[place]]
            before[row_slots[place]] += 1
        rows.append(row)
    return rows


def training_selection(scores: CandidateScores, gold: Bool[Tensor, "B N"], most: int) -> Int[Tensor, "B k"]:
    """Return the places of 1 to `most` facts with the best scores, with a gold one among them."""
    k = random.randint(1, min(most, scores.shape[1]))
    best: Tensor = scores.detach().topk(k, dim=-1).indices
    missing = gold.any(dim=-1) & ~gold.gather(1, best).any(dim=-1)
    best_gold = scores.detach().masked_fill(~gold, -torch.inf).argmax(dim=-1)
    best[missing, -1] = best_gold[missing]
    return best


def enough(shares: Sequence[float], mass: float) -> int:
    """Return how many facts are read (adaptive k): the fewest of falling `shares` that sum up to `mass`.

    Shares that sum to less are all read, and so are all for a mass of 1, whatever rounding makes of the sum.

    >>> enough([0.9, 0.08, 0.02], 0.95), enough([0.9, 0.08, 0.02], 1.0)
    (2, 3)
    """
    summed = 0.0
    for count, share in enumerate(shares, start=1):
        summed += share
        if summed >= mass and mass < 1:
            return count
    return len(shares)


def doubted(scores: CandidateScores, null: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
    """Return the null fact's share among all candidates."""
    return torch.log_softmax(torch.cat([scores, null], dim=-1), dim=-1)[:, -1].exp()


def reply(
    ranked: Candidates,
    chosen: Int[Tensor, "B K"],
    log_shares: Float[Tensor, "B K"],
    doubt: Float[Tensor, " B"],
    limit: float,
    mass: float,
) -> Reply:
    """Return a reply without texts.

    Args:
        ranked: all candidates by falling score.
        chosen: the k best of them, by falling share; -1 where there are fewer.
        log_shares: log-probability of each of those.
        doubt: probability that no fact answers.
        limit: doubt above which a question is refused.
        mass: probability that the facts which are read are to have; see `enough`.
    """
    read, weights, via = [], [], []
    refusal: list[float] = doubt.tolist()
    every, ways = torch.stack([ranked.facts, ranked.via]).tolist()
    for facts, row, *found_row in zip(chosen.tolist(), log_shares.exp().tolist(), every, ways, strict=True):
        way = dict(zip(*found_row, strict=True))
        count = enough(row[: sum(fact >= 0 for fact in facts)], mass)
        read.append(facts[:count])
        weights.append(row[:count])
        via.append([way[fact] for fact in facts[:count]])
    refused = [share > limit for share in refusal]
    candidates = [[fact for fact in row if fact >= 0] for row in every]
    return Reply([], read, weights, candidates, refusal, refused, via)
