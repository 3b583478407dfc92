r"""How near an answer is to the right one in meaning: BERTScore (arXiv 1904.09675), and a judge's opinion.

With contextual unit vectors x of the right answer's tokens and x̂ of what was said (section 3 of the paper),

.. math:: R = \frac{1}{|x|} \sum_i \max_j x_i^\top \hat x_j, \qquad
          P = \frac{1}{|\hat x|} \sum_j \max_i x_i^\top \hat x_j, \qquad F = \frac{2 P R}{P + R}

without weights by idf and without rescaling. Tokens that a tokenizer adds to every text are left out.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.weights import Encoder, load_encoder

PAIRS = 512
"""Pairs of texts that are compared at a time."""
Progress = Callable[[Iterable[int]], Iterable[int]]
Scores = tuple[float, float, float]
"""P, R and F of one text against another."""


class TokenStates:
    """The last states of a sentence encoder's tokens, of each text once.

    Args:
        encoder: which weights, and how texts are cut and batched.
        device: where it computes.
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.device = device
        self._settings = encoder
        self._model, self._tokenizer = load_encoder(encoder, device)
        self._known: dict[str, Float[Tensor, "T P"]] = {}

    @torch.no_grad()
    def add(self, texts: Iterable[str], progress: Progress = iter) -> None:
        """Compute the states of texts that are new; those longer than `encoder.max_tokens` are cut."""
        fresh = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        size = self._settings.batch_size
        for start in progress(range(0, len(fresh), size)):
            part = fresh[start : start + size]
            tokens = self._tokenizer(
                part,
                padding=True,
                truncation=True,
                max_length=self._settings.max_tokens,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self.device)
            own = ~tokens.pop("special_tokens_mask").bool() & tokens["attention_mask"].bool()
            states = F.normalize(self._model(**tokens).last_hidden_state.float(), dim=-1)
            self._known |= {text: states[row][own[row]] for row, text in enumerate(part)}

    def __getitem__(self, text: str) -> Float[Tensor, "T P"]:
        return self._known[text]


def bertscores(states: TokenStates, said: Sequence[str], right: Sequence[str]) -> list[Scores]:
    """Return P, R and F of each text said against the right one beside it; 0 where either has no token.

    F is 0 where P or R, means of cosines, is not above 0.

    Args:
        states: holds all these texts.
        said: what was answered.
        right: what should have been, as many.
    """
    found: list[Scores] = []
    for start in range(0, len(said), PAIRS):
        pairs = zip(said[start : start + PAIRS], right[start : start + PAIRS], strict=True)
        mine, other = (_padded([states[text] for text in texts]) for texts in zip(*pairs, strict=True))
        alike = torch.einsum("bsp,brp->bsr", mine[0], other[0])
        alike = alike.masked_fill(~(mine[1][:, :, None] & other[1][:, None, :]), -torch.inf)
        precision, recall = _mean(alike.amax(dim=2), mine[1]), _mean(alike.amax(dim=1), other[1])
        both = (mine[1].any(dim=1) & other[1].any(dim=1)).float()
        precision, recall = precision.nan_to_num(0.0, 0.0, 0.0), recall.nan_to_num(0.0, 0.0, 0.0)
        positive = torch.minimum(precision, recall) > 0  # of cosines: elsewhere there is no harmonic mean
        mean = (2 * precision * recall / (precision + recall)).where(positive, torch.zeros(()))
        table = torch.stack([precision, recall, mean], dim=1) * both[:, None]
        found += [(row[0], row[1], row[2]) for row in table.tolist()]
    return found


def best(states: TokenStates, said: Sequence[str], answers: Sequence[Sequence[str]]) -> list[Scores]:
    """Return the scores of each text against that of its right answers which gives the highest F."""
    pairs = [(text, one, row) for row, text in enumerate(said) for one in answers[row]]
    scores = bertscores(states, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    kept: list[Scores] = [(0.0, 0.0, 0.0)] * len(said)
    for (_, _, row), score in zip(pairs, scores, strict=True):
        kept[row] = max(kept[row], score, key=lambda one: one[2])
    return kept


def _padded(states: Sequence[Float[Tensor, "T P"]]) -> tuple[Float[Tensor, "B T P"], Bool[Tensor, "B T"]]:
    wide = max(1, *(len(one) for one in states)) if states else 1
    filled = torch.stack([F.pad(one, (0, 0, 0, wide - len(one))) for one in states])
    lengths = torch.tensor([len(one) for one in states], device=filled.device)
    return filled, torch.arange(wide, device=filled.device) < lengths[:, None]


def _mean(values: Float[Tensor, "B T"], there: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    return values.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1)


@dataclass(frozen=True)
class Opinion:
    """What a judge said of an answer."""

    score: float | None
    """0 (wrong) to 1 (right); None where its reply holds no such number."""
    tokens: int
    """Of the question to the judge and of its reply."""


def judged(judge: Any, instruction: str, question: str, answers: Sequence[str], said: str) -> Opinion:
    """Ask a judge how well an answer fits.

    Args:
        judge: completes a prompt, as `pipeline.kg.writers.Endpoint` does.
        instruction: a text with {question}, {answers} and {said}.
        question: what was asked.
        answers: any of them is right.
        said: what was answered.
    """
    prompt = instruction.format(question=question, answers=" | ".join(answers), said=said)
    reply, *tokens = judge.complete(prompt)
    return Opinion(parsed(reply), sum(tokens))


def parsed(reply: str) -> float | None:
    """Return the number from 0 to 1 that a reply begins with, None where it doesn't.

    >>> parsed(" 0.75, since both name a city"), parsed("1"), parsed("10"), parsed("Right")
    (0.75, 1.0, None, None)
    """
    form = r"\s*(?:score\s*[:=]?\s*)?(0?\.\d+|[01](?:\.\d+)?)(?![\d.]*\d|\s*[/%])"
    match = re.match(form, reply, re.IGNORECASE)
    score = float(match[1]) if match else None
    return score if score is not None and score <= 1 else None
