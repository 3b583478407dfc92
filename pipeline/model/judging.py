"""Training of what judges the candidates that were found: shared letters, the null fact, its threshold."""

import logging
import math
import random
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.facts import Candidates
from pipeline.model.asking import keys, worded, written
from pipeline.model.hops import gold_paths
from pipeline.model.letters import overlaps
from pipeline.model.losses import auxiliary_loss
from pipeline.model.ours import OurSystem
from pipeline.model.refusing import Judged, by_kind, limit, rightly
from pipeline.model.retrieval import Retrieval, Steps, cool
from pipeline.model.selection import doubted
from pipeline.model.system import Example
from pipeline.model.views import Views, batches

log = logging.getLogger(__name__)

CERTAIN = 0.9
"""Probability that a text asks nothing from which on it may be refused, however rare questions are there."""


def fit_letters(system: OurSystem, views: Views, settings: Retrieval, steps: Steps) -> list[dict[str, float]]:
    """Fit the correction by letters to the candidates that heads find, the heads held still.

    Args:
        system: its correction is fitted, in place.
        views: questions with gold facts that the heads were not fitted to; they know too much of others.
        settings: steps and learning rate.
        steps: wraps the iteration, for a progress bar.

    Returns:
        One row a step: step and aux_loss; none where no gold fact was found.
    """
    assert system.letters is not None
    found, letters, gold = [], [], []
    for batch in batches(system, views):
        texts = _texts(batch)
        with torch.no_grad():
            found.append(system.memory.search(system.query(texts)))
        letters.append(overlaps(system.memory, texts, found[-1].facts, found[-1].via))
        gold.append(gold_paths(found[-1].facts, found[-1].via, batch))
    right = torch.cat(gold)
    known = right.any(dim=-1)
    if not known.any():
        return []
    candidates = Candidates(*(torch.cat(part)[known] for part in zip(*found, strict=True)))
    covered, right = torch.cat(letters)[known], right[known]
    optimizer = torch.optim.AdamW(system.letters.parameters(), lr=settings.letters_learning_rate)
    curve = []
    for step in steps(range(settings.letters_steps), "letters"):
        cool(optimizer, settings.letters_learning_rate, step / settings.letters_steps)
        loss = auxiliary_loss(candidates.scores + system.letters(candidates, covered), right)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append({"step": step, "aux_loss": loss.item()})
    return curve


def fit_null(
    system: OurSystem,
    answerable: Views,
    unanswerable: Views,
    share: float,
    settings: Retrieval,
    steps: Steps,
) -> None:
    """Fit the null fact by logistic regression on what the retrieval finds, the retrieval held still.

    p(null) = σ(m - log Σ exp(s - max s)) with the null fact's margin m over the best candidate.

    Args:
        system: its null fact is fitted, in place.
        answerable: training questions with gold facts.
        unanswerable: training questions without.
        share: of unanswerable questions that the probabilities are calibrated to.
        settings: steps and learning rate.
        steps: wraps the iteration, for a progress bar.
    """
    kinds = [(answerable, 0.0, 1 - share), (unanswerable, 1.0, share)]
    features, offsets, targets, weights = [], [], [], []
    for views, label, importance in kinds:
        count = sum(len(examples) for _, examples in views)
        for batch in batches(system, views):
            with torch.no_grad():
                found, evidence = system.evidence(_texts(batch))
                features.append(evidence)
                best = found.scores.max(dim=-1, keepdim=True).values
                offsets.append((found.scores - best).logsumexp(dim=-1, keepdim=True).nan_to_num())
            targets.append(torch.full_like(offsets[-1], label))
            weights.append(torch.full_like(offsets[-1], importance / count))
    inputs, offset, target, weight = map(torch.cat, (features, offsets, targets, weights))
    optimizer = torch.optim.Adam(system.null.parameters(), lr=settings.null_learning_rate)
    for _ in steps(range(settings.null_steps), "null fact"):
        logits = system.null.margin(inputs) - offset
        loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def fit_asking(
    system: OurSystem, examples: Sequence[Example], count: int, draw: random.Random, steps: Steps
) -> None:
    """Teach the system to tell questions from texts that the language model writes by itself.

    Args:
        system: its `asking` is fitted, in place.
        examples: training questions, with an answer or without.
        count: texts to write.
        draw: of how they begin and end.
        steps: wraps the iteration, for a progress bar.
    """
    first = [example.via[0] if example.via else example.gold[0] for example in examples if example.gold]
    asks = [example.text for example in examples] + keys(system.memory, first)
    tells = written(system.reader, system.memory, count, draw)
    if not asks or not tells:
        return
    texts = [*asks, *tells]
    told = [
        worded(system.reader, texts[start : start + 64])
        for start in steps(range(0, len(texts), 64), "asking")
    ]
    x = torch.cat(told)
    system.asking.fit(x[: len(asks)], x[len(asks) :])


def choose_threshold(system: OurSystem, valid: Sequence[Example], share: float) -> dict[str, float]:
    """Set the threshold so that at most `share` of the questions that are answered rightly are refused.

    Those are validation questions whose first fact answers, of all kinds together, and no kind may lose more
    than chance makes of that share (`pipeline.model.refusing`). They are refused for want of a fact; as many
    again of all that have an answer may be as texts that ask nothing, none of them below `CERTAIN`: questions
    in words that validation doesn't have must not be taken for such texts. A threshold that no doubt is above
    is logged.

    Args:
        system: its null fact's threshold is set, to 0.5 at least, and the limit of its `asking`.
        valid: validation questions; those without an answer tell only what the threshold is worth.
        share: of the questions that may be refused for either reason.

    Returns:
        The threshold, and under each kind the share of its questions that is refused with it.
    """
    asking = system.asking
    asking.limit.fill_(torch.inf)
    answerable = [example for example in valid if example.gold]
    judged = by_kind(answerable, partial(_judged, system))
    system.null.threshold.fill_(max(0.5, limit(rightly(judged), share)))
    if asking.weight.any():
        looks = by_kind(answerable, lambda batch: asking(worded(system.reader, _texts(batch))).tolist())
        asking.limit.fill_(max(math.log(CERTAIN / (1 - CERTAIN)), limit(looks, share)))
    threshold = float(system.null.threshold)
    if threshold >= 1:
        log.warning(
            "the threshold is %s, so nothing is ever refused for want of a fact: some questions that are "
            "answered rightly are doubted as much as one can be; raise method.refuse_answerable",
            threshold,
        )
    doubts = by_kind(valid, lambda batch: system.doubt(_texts(batch)))
    refused = {kind: sum(d > threshold for d in values) / len(values) for kind, values in doubts.items()}
    return {"threshold": threshold, **refused}


@torch.no_grad()
def _judged(system: OurSystem, batch: Sequence[Example]) -> list[Judged]:
    """Return the doubt that a fact answers each question, and whether the way that comes first does."""
    found, evidence = system.evidence(_texts(batch))
    doubt = doubted(found.scores, system.null(found.scores, evidence))
    right = first_right(found, batch)
    return [Judged(*pair) for pair in zip(doubt.tolist(), right.tolist(), strict=True)]


def first_right(found: Candidates, batch: Sequence[Example]) -> Bool[Tensor, " B"]:
    """Return whether the candidate with the best score answers each question, by the way it asks for."""
    best = found.scores.argmax(dim=-1, keepdim=True)
    return gold_paths(found.facts.gather(1, best), found.via.gather(1, best), batch)[:, 0]


def _texts(batch: Sequence[Example]) -> list[str]:
    return [example.text for example in batch]
