"""Which of many passages a question is about: BM25 over real passages and made-up ones beside them."""

import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from pipeline.longcontext.corpora import Passage, sentences
from pipeline.memory.lexical import words

K1, B = 1.5, 0.75
"""Of BM25: the library's own."""


class PassageSearch:
    """Finds passages by words.

    Args:
        passages: what is searched, in an order in which neighbours belong together.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        # bm25s tries JAX as it is imported, which takes three quarters of a GPU where it finds one.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import bm25s

        self.passages = passages
        self._index: Any = bm25s.BM25(k1=K1, b=B, method="lucene")
        told = [words(f"{one.title} {one.text}") for one in passages]
        self._known = {word for document in told for word in document}
        self._index.index(told, show_progress=False)

    def scores(self, question: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the score of every passage."""
        known = [word for word in words(question) if word in self._known]
        if not known:
            return np.zeros(len(self.passages), np.float32)
        return np.asarray(self._index.get_scores(known), np.float32)

    def best(self, question: str, count: int) -> list[int]:
        """Return the places of the passages that score best, the best first."""
        scores = self.scores(question)
        first = np.argpartition(-scores, min(count, len(scores) - 1))[:count]
        found: list[int] = first[np.lexsort((first, -scores[first]))].tolist()
        return found


def widened(passages: Sequence[Passage], gold: Collection[Passage], count: int, seed: int) -> list[Passage]:
    """Return `count` passages: the gold ones, then others as they are, then made-up ones, sorted by title.

    A made-up passage has the title of a real one and sentences of two others, none of them gold, so that its
    words are as real as its statements are beside the point.
    """
    own = set(gold)
    others = [one for one in passages if one not in own]
    found = sorted(own, key=lambda one: (one.title, one.text)) + others[: max(0, count - len(own))]
    generator = np.random.default_rng(seed)
    parts = {place: list(sentences(one.text)) for place, one in enumerate(others)}
    while len(found) < count:
        title, first, second = generator.integers(len(others), size=3).tolist()
        text = "".join([*parts[first][:3], *parts[second][-2:]]).strip()
        found.append(Passage(others[title].title, text))
    return sorted(found, key=lambda one: (one.title, one.text))
