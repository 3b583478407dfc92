"""Gold facts of questions over one hop and over two: a fact answers only by the way that was asked for."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.memory.facts import Candidates
from pipeline.model.system import Example
from pipeline.shapes import CandidateFacts


def _answers(example: Example, fact: int, via: int) -> bool:
    """Return whether `fact`, reached by `via`, answers: what leads to it is gold too, or there is nothing."""
    return fact in example.gold and (via in example.via if example.via else via < 0)


def gold_paths(facts: CandidateFacts, via: CandidateFacts, batch: Sequence[Example]) -> Bool[Tensor, "B N"]:
    """Return which candidates answer their question."""
    rows = [
        [_answers(example, *pair) for pair in zip(*both, strict=True)]
        for *both, example in zip(facts.tolist(), via.tolist(), batch, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.bool, device=facts.device)


def with_gold_paths(found: Candidates, batch: Sequence[Example]) -> tuple[CandidateFacts, CandidateFacts]:
    """Return facts and via of the candidates, a gold one put last where none was found.

    Training only: a fact that was not found can't be learned from.
    """
    facts, via = found.facts.clone(), found.via.clone()
    there = gold_paths(facts, via, batch).any(dim=-1).tolist()
    for row, example in enumerate(batch):
        if example.gold and not there[row]:
            facts[row, -1] = example.gold[0]
            via[row, -1] = example.via[0] if example.via else -1
    return facts, via
