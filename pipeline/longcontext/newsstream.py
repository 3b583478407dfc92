"""A stream of news: real items in order, again and again, and made-up ones between them that are asked about.

What a real item says may be known to a model, and comes again when the items are repeated; a made-up item is
told once, and what it says can be had from nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.longcontext.corpora import News
from pipeline.longcontext.fillers import one_line
from pipeline.longcontext.samples import Sample, encoded

ITEM = "\n\nText: {text}\nHeadline: {headline}"
MADE = (
    "\n\nText: The jury met on Monday. The {prize} prize of {place} was won by {winner}. It is awarded "
    "each year.\nHeadline: {winner} wins {prize} prize"
)
ASKED = "\n\nQuestion: Who won the {prize} prize of {place}?\nAnswer: The {prize} prize of {place} was won by"
SUMMED = "\n\nText: {text}\nHeadline:"
BEFORE = " More news will follow."
"""Fills the tokens that count as the question."""
PRIZES = (
    *("poetry", "cooking", "rowing", "chess", "garden", "piano"),
    *("bridge", "running", "baking", "history", "film", "pottery"),
)
CONSONANTS = "bdfgklmnprstv"
VOWELS = "aeiou"


@dataclass(frozen=True)
class Segment:
    """A part of B streams that are read side by side, and what is asked after it."""

    ids: Int[Tensor, "B T"]
    recall: list[list[tuple[int, Sample]]]
    """Of each stream: how many items ago the answer was told, and the question."""
    headlines: list[list[Sample]]
    """Of each stream: texts whose headline is asked for, of items that are yet to come."""


class Stream:
    """Makes segments of `tokens` tokens each.

    Args:
        tokenizer: of the model that reads.
        items: real ones, in order.
        streams: B; they hold the same real items and other made-up ones.
        tokens: of a segment; its last item is cut.
        made: made-up items of a segment and stream.
        asked: tokens that count as a question.
        seed: of what is made up.
    """

    def __init__(
        self,
        tokenizer: Any,
        items: Sequence[News],
        streams: int,
        tokens: int,
        made: int,
        asked: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.asked, self.tokens, self.made = tokenizer, asked, tokens, made
        self.items = list(items)
        self.real = [encoded(tokenizer, ITEM.format(text=one.text, headline=one.headline)) for one in items]
        self.generators = [np.random.default_rng([seed, stream]) for stream in range(streams)]
        self.told: list[list[tuple[int, str, str]]] = [[] for _ in range(streams)]
        """Of each stream: at which item, the question, the answer."""
        self.place, self.count = 0, 0

    def segments(self, items: int, questions: int, headlines: int) -> Iterator[Segment]:
        """Yield segments until `items` items were told, each with at most so many questions, and headlines.

        Questions go over what was told so far from its beginning on, evenly.
        """
        while self.count < items:
            rows, taken = self._rows()
            self.place, self.count = self.place + taken, self.count + taken + self.made
            recall = [self._recall(told, questions) for told in self.told]
            coming = [self.items[(self.place + step) % len(self.items)] for step in range(headlines)]
            asked = [
                [self._sample(SUMMED.format(text=one.text), one.headline) for one in coming]
                for _ in self.told
            ]
            yield Segment(rows, recall, asked)

    def _rows(self) -> tuple[Int[Tensor, "B T"], int]:
        """Return the tokens of the next segment, and how many real items stand in it."""
        rows, counts = [], []
        for stream, generator in enumerate(self.generators):
            made = [self._made(stream, generator) for _ in range(self.made)]
            room, taken, parts = self.tokens - sum(map(len, made)), 0, list[list[int]]()
            while room > 0:
                item = self.real[(self.place + taken) % len(self.real)]
                parts.append(item[:room])
                room, taken = room - len(parts[-1]), taken + 1
            for one in made:
                parts.insert(int(generator.integers(len(parts))), one)
            rows.append(torch.tensor([token for part in parts for token in part][: self.tokens]))
            counts.append(taken)
        return torch.stack(rows), min(counts)

    def _made(self, stream: int, generator: np.random.Generator) -> list[int]:
        told = {
            "place": named(generator, 3),
            "prize": PRIZES[int(generator.integers(len(PRIZES)))],
            "winner": f"{named(generator, 2)} {named(generator, 3)}",
        }
        self.told[stream].append((self.count, ASKED.format(**told), told["winner"]))
        return encoded(self.tokenizer, MADE.format(**told))

    def _recall(self, told: list[tuple[int, str, str]], questions: int) -> list[tuple[int, Sample]]:
        places = np.unique(np.linspace(0, len(told) - 1, min(questions, len(told))).round().astype(int))
        return [
            (self.count - at, self._sample(question, answer))
            for at, question, answer in (told[place] for place in places.tolist())
        ]

    def _sample(self, text: str, answer: str) -> Sample:
        """Return a question that fills up its tokens; of a longer one the beginning is cut."""
        tail = encoded(self.tokenizer, text)[-self.asked :]
        ids = one_line(self.tokenizer, BEFORE, self.asked - len(tail)) + tail
        return Sample(torch.tensor(ids), self.asked, (answer,), (), 0.0)


def named(generator: np.random.Generator, syllables: int) -> str:
    """Return a made-up name."""
    pairs = zip(
        generator.choice(list(CONSONANTS), size=syllables).tolist(),
        generator.choice(list(VOWELS), size=syllables).tolist(),
        strict=True,
    )
    return "".join(first + second for first, second in pairs).capitalize()
