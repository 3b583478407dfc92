"""How well the letters of a question and of a fact's names cover each other: what their vectors blur.

A sentence vector hardly tells Mick Thomson from Tony Thompson, nor a name that is there from one that is
spliced of two that are. The words and the trigrams that two texts share do, and they cost no model.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.facts import Candidates
from pipeline.memory.store import KnowledgeMemory
from pipeline.shapes import CandidateFacts, CandidateScores

OVERLAPS = 10
"""Figures of a question and a fact; see `overlaps`."""
NEAR = 20
"""Best facts that are asked whether any of them covers the question."""

_WORD = re.compile(r"\w+")


@lru_cache(maxsize=1 << 17)
def _read(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the trigrams of a text's words, with their ends marked, and the words; case is folded."""
    words = tuple(_WORD.findall(text.casefold()))
    marked = (f"<{word}>" for word in words)
    return frozenset(word[i : i + 3] for word in marked for i in range(len(word) - 2)), words


def _name_overlaps(question: str, name: str) -> list[float]:
    asked, words = _read(question)
    trigrams, parts = _read(name)
    there = set(words)
    letters, found = sum(map(len, parts)), sum(len(part) for part in parts if part in there)
    shared = len(asked & trigrams)
    return [
        found / max(letters, 1),
        shared / max(len(trigrams), 1),
        shared / max(len(asked), 1),
        float(f" {' '.join(parts)} " in f" {' '.join(words)} "),
        len(parts) / 10,
        found / 20,
    ]


def _relation_overlap(question: str, noun: str) -> float:
    asked, trigrams = _read(question)[0], _read(noun)[0]
    return len(asked & trigrams) / max(len(asked), 1)


def overlaps(
    memory: KnowledgeMemory, questions: Sequence[str], facts: CandidateFacts, via: CandidateFacts
) -> Float[Tensor, "B N 10"]:
    """Return how well the question and each fact's head and relation cover each other, of the order of 1.

    The head and the relation are those that the question may name: of `via`, where it leads to the fact.

    In their order: the share of the head's letters that stand in words of the question; of the head's
    trigrams that the question has; of the question's trigrams that the head has; whether the head stands in
    the question as a whole; its words in tens; its letters found in twenties; the share of the question's
    trigrams that the relation's noun has; that the second relation's noun has; whether there is a second one;
    the logarithm of the number of facts that the head heads, in fives. Zeros where the id is -1.
    """
    asked = torch.where(via < 0, facts, via).clamp(min=0)
    if not len(memory.triples):
        return torch.zeros(*facts.shape, OVERLAPS, device=facts.device)
    rows = []
    for question, first, last, ways in zip(
        questions, asked.tolist(), facts.clamp(min=0).tolist(), via.tolist(), strict=True
    ):
        slots, ends = memory.triples[first, :2].tolist(), memory.triples[last, 1].tolist()
        heads = {head: _name_overlaps(question, memory.entities.texts[head]) for head, _ in slots}
        named = {relation for _, relation in slots} | set(ends)
        nouns = {r: _relation_overlap(question, memory.relations.texts[r]) for r in named}
        rows.append(
            [
                [*heads[head], nouns[relation], *((nouns[end], 1.0) if way >= 0 else (0.0, 0.0))]
                for (head, relation), end, way in zip(slots, ends, ways, strict=True)
            ]
        )
    read = torch.tensor(rows, device=facts.device).reshape(*facts.shape, OVERLAPS - 1)
    groups = memory.adjacency.by_head.start
    head = memory.adjacency.head[asked]
    count = (groups[head + 1] - groups[head]).float().log1p() / 5
    return torch.cat([read, count[..., None]], dim=-1).masked_fill((facts < 0)[..., None], 0.0)


class LetterCorrection(nn.Module):
    """A correction of the scores by a small perceptron of `overlaps` and of the score's own parts.

    It starts at zero. Its inputs carry no gradient: it judges candidates, it doesn't reshape the retrieval.

    Args:
        width: inner width.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3 + OVERLAPS, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, found: Candidates, letters: Float[Tensor, "B N 10"]) -> CandidateScores:
        """Return what is added to the candidates' scores, in nats."""
        scores, entity, relation = (part.detach() for part in found[1:4])
        parts = [
            ((part - part.max(dim=-1, keepdim=True).values) / 10).clamp(min=-3.0) for part in (scores, entity)
        ]
        parts.append((relation / 10).clamp(min=-2.0))
        features = torch.cat([torch.stack(parts, dim=-1).nan_to_num(), letters], dim=-1)
        added: Tensor = 10 * self.outer(F.gelu(self.inner(features)))[..., 0]
        return added


def nearest_letters(
    memory: KnowledgeMemory, questions: Sequence[str], found: Candidates
) -> Float[Tensor, "B 13"]:
    """Return the overlaps of each question's best fact, and how far the best few cover it at most."""
    best = found.scores.topk(min(NEAR, found.scores.shape[1]), dim=-1).indices
    near = overlaps(memory, questions, found.facts.gather(1, best), found.via.gather(1, best))
    return torch.cat([near[:, 0], near[..., :3].max(dim=1).values], dim=-1)
