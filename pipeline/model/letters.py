"""How well the letters of a question and of a fact's names cover each other: what their vectors blur.

A sentence vector hardly tells Mick Thomson from Tony Thompson, nor a name that is there from one that is
spliced of two that are. The words and the trigrams that two texts share do, and they cost no model.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.facts import Candidates
from pipeline.memory.store import KnowledgeMemory
from pipeline.shapes import CandidateFacts, CandidateScores

OVERLAPS = 11
"""Figures of a question and a fact; see `overlaps`."""
Letters = Float[Tensor, "B N 11"]
"""`overlaps` of the candidates."""
NEAR = 20
"""Best facts that are asked whether any of them covers the question."""

_WORD = re.compile(r"\w+")


@lru_cache(maxsize=1 << 17)
def read(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the trigrams of a text's words, with their ends marked, and the words; case is folded."""
    words = tuple(_WORD.findall(text.casefold()))
    marked = (f"<{word}>" for word in words)
    return frozenset(word[i : i + 3] for word in marked for i in range(len(word) - 2)), words


@lru_cache(maxsize=1 << 17)
def _counted(name: str) -> tuple[frozenset[str], tuple[str, ...], int, str]:
    """Return the trigrams and the words of a name, its letters, and its words as they stand in a text."""
    trigrams, words = read(name)
    return trigrams, words, sum(map(len, words)), f" {' '.join(words)} "


class _Question:
    """The letters of a question, held against names and nouns."""

    def __init__(self, text: str) -> None:
        self._trigrams, words = read(text)
        self._words, self._whole = frozenset(words), f" {' '.join(words)} "
        self._count = max(len(self._trigrams), 1)

    def name(self, name: str) -> tuple[float, ...]:
        trigrams, parts, letters, whole = _counted(name)
        found = sum([len(part) for part in parts if part in self._words])
        shared = len(self._trigrams & trigrams)
        return (
            found / max(letters, 1),
            shared / max(len(trigrams), 1),
            shared / self._count,
            float(whole in self._whole),
            len(parts) / 10,
            found / 20,
        )

    def noun(self, noun: str) -> tuple[float, float]:
        trigrams = read(noun)[0]
        shared = len(self._trigrams & trigrams)
        return shared / self._count, shared / max(len(trigrams), 1)

    def later(self, noun: str, first: str) -> float:
        """Return what `noun` says that the noun asked for before it doesn't, unless it is said twice."""
        trigrams, _, _, whole = _counted(noun)
        # Each space is shared by two neighbours, so that a count would miss a noun that follows itself.
        twice = self._whole.find(whole, self._whole.find(whole) + 1) >= 0 and whole in self._whole
        told = trigrams if twice else trigrams - read(first)[0]
        return len(self._trigrams & told) / self._count


def overlaps(
    memory: KnowledgeMemory, questions: Sequence[str], facts: CandidateFacts, via: CandidateFacts
) -> Letters:
    """Return how well the question and each fact's head and relation cover each other, of the order of 1.

    The head and the relation are those that the question may name: of `via`, where it leads to the fact.

    In their order: the share of the head's letters that stand in words of the question; of the head's
    trigrams that the question has; of the question's trigrams that the head has; whether the head stands in
    the question as a whole; its words in tens; its letters found in twenties; the share of the question's
    trigrams that the relation's noun has; of the noun's trigrams that the question has; of the question's
    that the second relation's noun has and the first one's hasn't, all of it where the question says it
    twice; whether there is a second one; the logarithm of the number of facts that the head heads, in fives.
    Zeros where the id is -1.
    """
    if not (facts >= 0).any():
        return torch.zeros(*facts.shape, OVERLAPS, device=facts.device)
    last, way = torch.stack([facts, via]).cpu().numpy()
    led = way >= 0
    slots = memory.columns(torch.where(via < 0, facts, via).clamp(min=0)).cpu().numpy()
    ends = memory.columns(facts.clamp(min=0))[1].cpu().numpy()
    read = np.zeros((*last.shape, OVERLAPS - 1), np.float32)
    names, nouns = memory.entities.texts, memory.relations.texts
    for row, text in enumerate(questions):
        question = _Question(text)
        read[row, :, :6] = _each(question.name, names, slots[0, row])
        read[row, :, 6:8] = _each(question.noun, nouns, slots[1, row])
        if led[row].any():
            pairs = np.stack([ends[row], slots[1, row]])[:, led[row]]
            distinct, place = np.unique(pairs, axis=1, return_inverse=True)
            said = [question.later(nouns[last], nouns[first]) for last, first in distinct.T.tolist()]
            read[row, led[row], 8] = np.array(said)[place]
    read[..., 9] = led
    heads, place = np.unique(slots[0], return_inverse=True)
    count = torch.from_numpy(memory.counts(heads)[place].reshape(facts.shape)).float().log1p() / 5
    figures = torch.cat([torch.from_numpy(read), count[..., None]], dim=-1).to(facts.device)
    return figures.masked_fill((facts < 0)[..., None], 0.0)


def _each(
    figures: Callable[[str], tuple[float, ...]], texts: Sequence[str], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the figures of the texts in `rows`, those of each text computed once."""
    distinct, place = np.unique(rows, return_inverse=True)
    return np.array([figures(texts[row]) for row in distinct.tolist()])[place]


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

    def forward(self, found: Candidates, letters: Letters) -> CandidateScores:
        """Return what is added to the candidates' scores, in nats."""
        scores, entity, relation = (part.detach() for part in found[1:4])
        parts = [
            ((part - part.max(dim=-1, keepdim=True).values) / 10).clamp(min=-3.0) for part in (scores, entity)
        ]
        parts.append((relation / 10).clamp(min=-2.0))
        features = torch.cat([torch.stack(parts, dim=-1).nan_to_num(), letters], dim=-1)
        added: Tensor = 10 * self.outer(F.gelu(self.inner(features)))[..., 0]
        return added


def nearest_letters(letters: Letters, scores: CandidateScores) -> Float[Tensor, "B 14"]:
    """Return the overlaps of each question's best fact, and how far the best few cover it at most."""
    best = scores.topk(min(NEAR, scores.shape[1]), dim=-1).indices
    near = letters.gather(1, best[..., None].expand(-1, -1, OVERLAPS))
    return torch.cat([near[:, 0], near[..., :3].max(dim=1).values], dim=-1)
