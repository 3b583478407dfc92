"""Passkey: a number hidden somewhere in a long text, and asked for at its end (arXiv 2305.16300).

Ten random digits by default, which no model guesses, and all of them must be said: exact match.
"""

import re
from typing import Any

import numpy as np
import torch

from pipeline.longcontext.fillers import Filler
from pipeline.longcontext.samples import Sample, encoded

HEAD = "There is important information hidden in a lot of other text. Find it and remember it."
NEEDLE = " The pass key is {key}. Remember it. {key} is the pass key."
TAIL = "\n\nWhat is the pass key, the number hidden in the text? Remember it. The pass key is"
"""Says that it is a number: a small model else says what a pass key is."""


def passkeys(
    tokenizer: Any, filler: Filler, length: int, count: int, digits: int, asked: int, seed: int
) -> list[Sample]:
    """Return samples whose key stands ever deeper, the first at the beginning and the last at the end.

    Args:
        tokenizer: of the model that is asked.
        filler: what the key is hidden in; each sample begins elsewhere in it.
        length: tokens of each prompt.
        count: how many.
        digits: of each key.
        asked: tokens that count as the question; the text's end fills them up.
        seed: of the keys and beginnings.

    Raises:
        ValueError: nothing is left to hide the key in.
    """
    depths = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    return [
        hidden(tokenizer, filler, length, float(depth), digits, asked, [seed, length, place])
        for place, depth in enumerate(depths)
    ]


def hidden(
    tokenizer: Any, filler: Filler, length: int, depth: float, digits: int, asked: int, seed: list[int]
) -> Sample:
    """Return one sample; see `passkeys`."""
    generator = np.random.default_rng(seed)
    key = "".join(map(str, generator.integers(10, size=digits)))
    head, tail = encoded(tokenizer, HEAD), encoded(tokenizer, TAIL)
    needle = encoded(tokenizer, NEEDLE.format(key=key))
    room = length - len(head) - len(needle) - len(tail)
    if room < 0 or len(tail) > asked:
        raise ValueError(f"a prompt of {length} tokens, {asked} of them asking, has no room for a pass key")
    sentence = int(generator.integers(len(filler.starts)))
    text = filler.taken(sentence, room)
    before = filler.parted(sentence, round(depth * room))
    first = len(head) + before
    ids = np.concatenate([head, text[:before], needle, text[before:], tail]).astype(np.int64)
    spans = ((first, first + len(needle)),)
    return Sample(torch.from_numpy(ids), asked, (key,), spans, before / room if room else 0.0)


def found(said: str, sample: Sample) -> float:
    """Return 1.0 where the first number that was said is the key, whole; else 0.0."""
    number = re.search(r"\d+", said)
    return float(number is not None and number[0] in sample.answers)
