"""Questions over passages: Natural Questions and HotpotQA, gold passages among others, in one long prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.longcontext.corpora import Asked, Passage
from pipeline.longcontext.samples import Sample, encoded

HEAD = "Answer the questions from the passages with a few words."
EXAMPLES = (
    "\n\nQuestion: In which city does the Louvre stand?\nAnswer: Paris"
    "\n\nQuestion: Which of the two rivers is longer, the Nile or the Rhine?\nAnswer: the Nile"
)
"""Show a base model that answers are short."""
QUESTION = "\n\nQuestion: {question}\nAnswer:"


def shown(passage: Passage) -> str:
    """Return how a passage stands in a prompt."""
    return f"\n\n{passage.title}: {passage.text}"


def among_passages(
    tokenizer: Any,
    questions: Sequence[Asked],
    pool: Sequence[Passage],
    length: int,
    asked: int,
    seed: int,
) -> list[Sample]:
    """Return one sample a question: its gold passages and others of the pool, in random order.

    The beginning of the first passage that is not gold is cut, so that prompts have one length. A question
    whose gold passages don't fit, or that is longer than what asks, is left out.

    Args:
        tokenizer: of the model that is asked.
        questions: with their gold passages.
        pool: where the others are drawn from.
        length: tokens of each prompt.
        asked: tokens that count as the question; examples and the text's end fill them up.
        seed: of draws and order.
    """
    made = (
        _sample(tokenizer, one, pool, length, asked, np.random.default_rng([seed, length, place]))
        for place, one in enumerate(questions)
    )
    return [sample for sample in made if sample is not None]


def _sample(
    tokenizer: Any,
    one: Asked,
    pool: Sequence[Passage],
    length: int,
    asked: int,
    generator: np.random.Generator,
) -> Sample | None:
    tail = encoded(tokenizer, QUESTION.format(question=one.text))
    fixed = [encoded(tokenizer, HEAD), encoded(tokenizer, EXAMPLES) + tail]
    gold = [encoded(tokenizer, shown(passage)) for passage in one.gold]
    room = length - sum(map(len, [*fixed, *gold]))
    if room < 0 or len(tail) > asked or not gold:
        return None
    others: list[list[int]] = []
    own = {passage.title for passage in one.gold}
    while room > 0:
        passage = pool[int(generator.integers(len(pool)))]
        if passage.title not in own:
            others.append(encoded(tokenizer, shown(passage))[-room:])
            room -= len(others[-1])
    cut = others.pop() if others else []  # stands first: its beginning may be missing
    texts = others + gold
    order = generator.permutation(len(texts)).tolist()
    ids, spans = [*fixed[0], *cut], []
    for place in order:
        if place >= len(others):
            spans.append((len(ids), len(ids) + len(texts[place])))
        ids += texts[place]
    ids += fixed[1]
    return Sample(torch.tensor(ids), asked, one.answers, tuple(spans), spans[0][0] / length)


def prompt(tokenizer: Any, texts: Sequence[str], question: str) -> list[int]:
    """Return the tokens of a prompt of a few texts, as `among_passages` writes it."""
    return encoded(tokenizer, HEAD + "".join(texts) + EXAMPLES + QUESTION.format(question=question))
