"""What letters say, from tables: `pipeline.model.letters.overlaps` in tensors of fixed shapes.

The trigrams and words of every name are numbers, and so are a question's.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.store import KnowledgeMemory
from pipeline.model.inbox import Inbox
from pipeline.model.letters import Letters, read
from pipeline.model.numbered import Lists, Numbers
from pipeline.shapes import CandidateFacts

TRIGRAMS, WORDS = 128, 32
"""Different trigrams, and words, of the longest question."""
FRESH = 4096
"""Trigrams, and words, that no name had before that may come."""
UNKNOWN = -2
"""Stands for a word of the question that no name has, and where there is none."""


class Texts(NamedTuple):
    """The letters of names as numbers."""

    trigrams: list[list[int]]
    words: list[list[int]]
    lengths: list[list[int]]
    """Letters of each word."""


class LetterTables:
    """The letters of a memory's names and nouns, and those of the questions that are asked.

    Args:
        memory: gives the names.
        entities: names that there may be.
        relations: nouns that there may be.
        questions: B of every batch.
    """

    def __init__(self, memory: KnowledgeMemory, entities: int, relations: int, questions: int) -> None:
        self._memory, device = memory, memory.device
        self._trigrams, self._words = Numbers(), Numbers()
        names, nouns = memory.entities.texts, memory.relations.texts
        told, more = self._numbered(names), entities - len(names)
        self._name = [Lists(lists, more, device) for lists in told]
        self._noun = Lists(self._numbered(nouns).trigrams, relations - len(nouns), device)
        self._seen = len(names), len(nouns)
        self._most = len(self._trigrams) + FRESH
        self._given = Inbox((questions, TRIGRAMS + WORDS + 2), torch.long, device)

    def _numbered(self, texts: Iterable[str]) -> Texts:
        found = Texts([], [], [])
        for text in texts:
            trigrams, words = read(text)
            found.trigrams.append(self._trigrams.of(sorted(trigrams)))
            found.words.append(self._words.of(words))
            found.lengths.append(list(map(len, words)))
        return found

    def follow(self) -> bool:
        """Take in new names; return whether all have a place, as they must before a question."""
        names, nouns = self._memory.entities.texts, self._memory.relations.texts
        if self._seen == (len(names), len(nouns)):
            return True
        new = self._numbered(names[self._seen[0] :])
        new_nouns = self._numbered(nouns[self._seen[1] :]).trigrams
        room = all(table.fit(lists) for table, lists in zip(self._name, new, strict=True))
        if not room or not self._noun.fit(new_nouns) or len(self._trigrams) > self._most:
            return False
        for table, lists in zip(self._name, new, strict=True):
            table.add(lists)
        self._noun.add(new_nouns)
        self._seen = len(names), len(nouns)
        return True

    def ask(self, questions: Sequence[str]) -> bool:
        """Take the questions that `overlaps` is to judge by; return whether all of them fit."""
        told = [read(text) for text in questions]
        if any(len(trigrams) > TRIGRAMS or len(words) > WORDS for trigrams, words in told):
            return False
        given = self._given.opened()
        given[:, :TRIGRAMS] = self._most
        given[:, TRIGRAMS:] = UNKNOWN
        for row, (trigrams, words) in enumerate(told):
            given[row, : len(trigrams)] = self._trigrams.known(trigrams, self._most)
            given[row, TRIGRAMS : TRIGRAMS + len(words)] = self._words.known(words, UNKNOWN)
            given[row, -2:] = len(trigrams), len(words)
        self._given.send()
        return True

    def overlaps(
        self, heads: CandidateFacts, relations: CandidateFacts, counts: Int[Tensor, "B N"]
    ) -> Letters:
        """Return what `pipeline.model.letters.overlaps` does, of candidates over one hop.

        Args:
            heads: rows of their heads.
            relations: rows of their relations.
            counts: facts that the heads head.
        """
        given = self._given.tensor
        asked, words, sizes = torch.split(given, [TRIGRAMS, WORDS, 2], dim=1)
        known = torch.zeros(len(given), self._most + 1, dtype=torch.bool, device=given.device)
        known = known.scatter(1, asked, torch.ones_like(asked, dtype=torch.bool))
        known[:, -1] = False
        all_trigrams = sizes[:, :1].clamp(min=1)
        (trigrams, count), (parts, number), (lengths, _) = (table[heads] for table in self._name)
        shared = _among(known, trigrams)
        same = (parts[..., None] == words[:, None, None]).any(dim=-1)
        found = (lengths * same).sum(dim=-1)
        whole = _stands(parts, number, words, sizes[:, 1:])
        nouns, size = self._noun[relations]
        noun = _among(known, nouns)
        none = torch.zeros_like(found)
        figures = [
            found / lengths.clamp(min=0).sum(dim=-1).clamp(min=1),
            shared / count.clamp(min=1),
            shared / all_trigrams,
            whole,
            number / 10,
            found / 20,
            noun / all_trigrams,
            noun / size.clamp(min=1),
            none,
            none,
            counts.float().log1p() / 5,
        ]
        return torch.stack([figure.float() for figure in figures], dim=-1)


def _among(known: Bool[Tensor, "B V"], numbers: Int[Tensor, "B N L"]) -> Int[Tensor, "B N"]:
    """Return how many of each candidate's numbers are known."""
    rows = numbers.clamp(min=0).flatten(1)
    return (known.gather(1, rows).view(numbers.shape) & (numbers >= 0)).sum(dim=-1)


def _stands(
    parts: Int[Tensor, "B N L"],
    number: Int[Tensor, "B N"],
    words: Int[Tensor, "B W"],
    count: Int[Tensor, "B 1"],
) -> Bool[Tensor, "B N"]:
    """Return whether the words of each candidate stand in the question, one after the other."""
    longest = parts.shape[2]
    windows = F.pad(words, (0, longest - 1), value=UNKNOWN).unfold(1, longest, 1)  # B W L
    equal = (parts[:, :, None] == windows[:, None]) | (parts < 0)[:, :, None]
    return torch.where(number > 0, equal.all(dim=-1).any(dim=-1), count == 0)
