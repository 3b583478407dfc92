"""A prompt with a question at its end, and prompts of one length side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and what is right."""

    ids: Int[Tensor, " T"]
    """Tokens of the text and of the question after it."""
    asked: int
    """Tokens at the end that hold the question."""
    answers: tuple[str, ...]
    """Any of them is right."""
    gold: tuple[tuple[int, int], ...]
    """Where in the prompt the answer stands: first token of each span, and the one after its last."""
    depth: float
    """How far into the text the first span begins, from 0 to 1."""


def batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield the samples in their order, at most `size` at a time.

    Raises:
        ValueError: two of them differ in length or in the tokens that ask, so that they can't be rows.
    """
    for start in range(0, len(samples), size):
        batch = list(samples[start : start + size])
        shapes = {(len(sample.ids), sample.asked) for sample in batch}
        if len(shapes) > 1:
            raise ValueError(f"samples of one batch must have one length and asked, not {sorted(shapes)}")
        yield batch


def stacked(batch: Sequence[Sample]) -> Int[Tensor, "B T"]:
    """Return the prompts of a batch."""
    return torch.stack([sample.ids for sample in batch])


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, without any that a tokenizer adds at its ends."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
