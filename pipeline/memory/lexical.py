r"""Lexical search over a memory: BM25 (Robertson and Zaragoza, 2009) by the library bm25s (arXiv 2407.03618).

With the terms t of a question q, n_t of M documents that hold t, f_{t,d} times t in the document d of length
|d|, and their mean length ℓ, the score (the form of Lucene) is

.. math:: \sum_{t \in q} \ln\!\Big(1 + \frac{M - n_t + ½}{n_t + ½}\Big)
          \frac{f_{t,d}}{f_{t,d} + k_1 (1 - b + b\,|d| / ℓ)}

A document is a slot, for the facts of one slot answer alike: its key "the r of h", or the facts themselves.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import log

import numpy as np
from jaxtyping import Bool, Float

from pipeline.memory.arrangement import Arrangement
from pipeline.memory.store import KnowledgeMemory

DOCUMENTS = ("key", "fact")
_WORD = re.compile(r"\w+")


def spans(text: str) -> list[tuple[str, int, int]]:
    """Return the words of a text, without case and accents, with where each begins and ends in it.

    >>> spans("São Tomé's")
    [('sao', 0, 3), ('tome', 4, 8), ('s', 9, 10)]
    """
    return [(_plain(match.group()), *match.span()) for match in _WORD.finditer(text)]


@lru_cache(maxsize=1 << 17)
def _plain(word: str) -> str:
    folded = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in folded if not unicodedata.combining(char))


def words(text: str) -> list[str]:
    """Return the words of a text, without case and accents.

    >>> words("São Tomé's IATA code?")
    ['sao', 'tome', 's', 'iata', 'code']
    """
    return [word for word, _, _ in spans(text)]


class LexicalIndex:
    """The slots of a memory by their words.

    Any change of the memory makes the next question rebuild the index, for the share of documents that hold
    a term and their mean length change with every fact; the words of texts are kept.

    Args:
        memory: gives the facts.
        documents: `key` for "the r of h", `fact` for the sentences of its facts.
        k1: how soon more of the same term counts no more.
        b: how much longer documents count less, from 0 to 1.
    """

    def __init__(self, memory: KnowledgeMemory, documents: str, k1: float, b: float) -> None:
        # bm25s tries JAX as it is imported, which takes three quarters of a GPU where it finds one.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import bm25s

        self._memory = memory
        self._documents = documents
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        self._slots: list[list[int]] = []
        self._holding: Counter[str] = Counter()
        self._of: tuple[Arrangement, Bool[np.ndarray, " M"]] | None = None

    def search(self, questions: Sequence[str], n: int) -> list[tuple[list[int], list[float]]]:
        """Return the n facts whose slots score best with their scores, for each question.

        Slots that score alike are in the order of their texts, and so are the facts of a slot. A slot that
        shares no term with the question scores 0 and is ranked all the same.
        """
        self._follow()
        found = []
        for question in questions:
            scores = self.scores(question)
            facts: list[int] = []
            values: list[float] = []
            for place in np.argsort(-scores, kind="stable")[:n].tolist():
                facts += self._slots[place]
                values += [float(scores[place])] * len(self._slots[place])
                if len(facts) >= n:
                    break
            found.append((facts[:n], values[:n]))
        return found

    def scores(self, question: str) -> Float[np.ndarray, " S"]:
        """Return the score of every slot, in the order of their texts."""
        self._follow()
        known = [word for word in words(question) if word in self._holding]
        if not known:
            return np.zeros(len(self._slots), np.float32)
        scores: Float[np.ndarray, " S"] = self._index.get_scores(known)
        return scores

    def bound(self, question: str) -> float:
        """Return Σ ln(1 + (M - n_t + ½)/(n_t + ½)), which no document's score of the question can reach."""
        self._follow()
        count = len(self._slots)
        held = [self._holding.get(word, 0) for word in words(question)]
        return sum(log(1 + (count - n + 0.5) / (n + 0.5)) for n in held)

    def _follow(self) -> None:
        """Index the facts that hold now, unless they are those that are indexed."""
        alive, arrangement = self._memory.alive, self._memory.arrangement
        if self._of and self._of[0] is arrangement and np.array_equal(self._of[1], alive):
            return
        self._of = arrangement, alive.copy()
        slots: dict[tuple[int, int], list[int]] = {}
        rows = np.flatnonzero(alive)
        for row, (head, relation, _) in zip(rows.tolist(), self._memory.triples[rows].tolist(), strict=True):
            slots.setdefault((head, relation), []).append(row)
        texts = {
            slot: (self._memory.slot_text(*slot), *sorted(map(self._memory.text, facts)))
            for slot, facts in slots.items()
        }
        ordered = sorted(slots, key=texts.__getitem__)
        self._slots = [sorted(slots[slot], key=self._memory.text) for slot in ordered]
        named = slice(0, 1) if self._documents == "key" else slice(1, None)
        told = [[word for text in texts[slot][named] for word in words(text)] for slot in ordered]
        self._holding = Counter(word for document in told for word in set(document))
        if told:
            self._index.index(told, show_progress=False)
