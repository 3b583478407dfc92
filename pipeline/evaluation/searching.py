"""Fits what finds facts, before the reader is: the heads of ours, the query and the reranker of RAG."""

import random
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from pipeline.memory.facts import Query
from pipeline.model.batches import Pool, Train
from pipeline.model.heads import RetrievalHeads
from pipeline.model.judging import fit_asking, fit_letters, fit_null
from pipeline.model.ours import OurSystem
from pipeline.model.ragtuned import RagTunedSystem
from pipeline.model.rehearsal import Rehearsed, choose_trust, rehearse, unfamiliar
from pipeline.model.retrieval import Retrieval, choose_weight, fit_correction, fit_heads
from pipeline.model.system import Example
from pipeline.model.tuning import choose_refusal, choose_search, fit_query, fit_reranker
from pipeline.tracking import Curve

QUESTIONS = 4000
"""Questions at most of either kind, with and without an answer, that texts are told from."""


def fit_retrieval(
    system: OurSystem,
    pool: Pool,
    valid: Sequence[Example],
    settings: Retrieval,
    unanswerable: float,
    seed: int,
    out: Path,
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit the heads, then the correction by early states and its weight, then the null fact.

    The heads and both corrections learn from questions with gold facts alone, and stay as they are without
    any; the null fact and what tells questions from other texts learn from all.
    """
    draw = random.Random(seed)
    known = _balanced(pool, settings.examples, draw)
    judged = known
    if system.letters:
        judged, known = _apart(system, known, settings.held, draw)
    taught = [example for example in known if example.gold]
    held = list(valid)
    if settings.validation and len(held) > settings.validation:
        held = draw.sample(held, settings.validation)
    curve = Curve(out / "retrieval.csv", ("step", "aux_loss", "retrieval_accuracy"))
    rehearsed: list[Rehearsed] = []
    trust: dict[str, float] = {}
    if taught:
        fresh = deepcopy(system.heads)
        asking = _asking(system, taught)
        ask = partial(asking, system.heads)
        slots = _slots(system, taught).to(system.reader.device)
        for row in fit_heads(system.heads, system.memory, ask, slots, settings, bar):
            curve.append(**row)
        if system.method.question == "encoder" and system.memory.settings.layout == "factored":
            parts = fresh, system.heads, system.memory
            rehearsed = rehearse(*parts, asking, slots, settings, draw, bar)
            trust = choose_trust(system, rehearsed, held, settings.trusts)
    views = [(system.heads, judged), *unfamiliar(system, rehearsed, judged)]
    if system.letters:
        fit_letters(system, views, settings, bar)
    weights: Sequence[float] = []
    if settings.correction_steps and taught:
        fit_correction(system, taught, ask, settings, bar)
        weights = settings.correction_weights
    accuracy = choose_weight(system, held, weights)
    if pool.unanswerable:
        count = settings.null_examples
        answerable, without = (draw.sample(list(e), min(len(e), count)) for e in (judged, pool.unanswerable))
        views = [(system.heads, answerable), *unfamiliar(system, rehearsed, answerable)]
        fit_null(system, views, [(system.heads, without)], unanswerable, settings, bar)
    if settings.texts:
        questions = draw.sample(known, min(len(known), QUESTIONS))
        questions += draw.sample(list(pool.unanswerable), min(len(pool.unanswerable), QUESTIONS))
        fit_asking(system, questions, settings.texts, draw, bar)
    return accuracy, trust


def fit_search(
    system: RagTunedSystem, pool: Pool, valid: Sequence[Example], train: Train, seed: int, out: Path
) -> dict[str, float]:
    """Fit the query and the reranker of RAG, and choose by validation questions how both are used.

    Both learn from questions with gold facts alone, and stay as they are without any.
    """
    draw, settings = random.Random(seed), train.retrieval
    known = [example for example in _balanced(pool, settings.examples, draw) if example.gold]
    columns = ("step", "aux_loss", "retrieval_accuracy")
    if system.method.head_width and known:
        curve = Curve(out / "retrieval.csv", columns)
        for row in fit_query(system, known, settings, bar):
            curve.append(**row)
    if system.reranker and known:
        curve = Curve(out / "reranker.csv", columns)
        for row in fit_reranker(system, known, pool.unanswerable, train.unanswerable, settings, bar):
            curve.append(**row)
    held = list(valid)
    if settings.validation and len(held) > 2 * settings.validation:
        kinds = [[e for e in held if bool(e.gold) == answered] for answered in (True, False)]
        held = [e for kind in kinds for e in draw.sample(kind, min(len(kind), settings.validation))]
    chosen = choose_search(system, held, settings.rerank_weights)
    return chosen | choose_refusal(system, valid, system.method.refuse_answerable)


def _slots(system: OurSystem, known: Sequence[Example]) -> Int[Tensor, "B 3"]:
    """Return the entity (the slot, in that layout), the relation and the second one that each asks for."""
    asked = [e.via[0] if e.via else e.gold[0] for e in known]
    triples = system.memory.triples[asked]
    first = triples[:, 0]
    if system.memory.settings.layout == "slot":
        first = system.memory.adjacency.slot[torch.tensor(asked)].cpu().numpy()
    later = np.array([system.memory.triples[e.gold[0], 1] if e.via else -1 for e in known])
    return torch.stack([torch.as_tensor(row) for row in (first, triples[:, 1], later)], dim=1)


def _asking(
    system: OurSystem, known: Sequence[Example]
) -> Callable[[RetrievalHeads, Int[Tensor, " B"]], Query]:
    """Return what gives the queries of `known`; texts are encoded once, early states made each time."""
    if system.method.question == "states":
        return lambda heads, drawn: system.query([known[i].text for i in drawn.tolist()])
    vectors = system.encoder.encode([e.text for e in known], lambda b: bar(b, "questions"))
    return lambda heads, drawn: heads(vectors[drawn.to(vectors.device)])


def _apart(
    system: OurSystem, known: Sequence[Example], share: float, draw: random.Random
) -> tuple[list[Example], list[Example]]:
    """Return at least `share` of the questions, about entities that no other asks about, and the others.

    Heads that were fitted to other questions about the same entities would be surer of these than of new
    ones. Where that leaves no others, they are all questions.
    """
    groups: dict[object, list[Example]] = {}
    for example in known:
        asked = (example.via or example.gold)[:1]
        key = int(system.memory.triples[asked[0], 0]) if asked else example.text
        groups.setdefault(key, []).append(example)
    order = list(groups.values())
    draw.shuffle(order)
    apart: list[Example] = []
    while order and len(apart) < max(1, round(share * len(known))):
        apart += order.pop()
    return apart, [example for group in order for example in group] or list(known)


def _balanced(pool: Pool, limit: int, draw: random.Random) -> list[Example]:
    """Return training questions, two templated ones for one that a person wrote, where there are such.

    One question over two facts comes with two templated ones, for a system that follows them.
    """
    human = list(pool.human)
    template = list(pool.template)
    if human and len(template) > 2 * len(human):
        template = draw.sample(template, 2 * len(human))
    both = list(pool.multihop)
    if len(both) > len(template) // 2:
        both = draw.sample(both, len(template) // 2)
    known = human + template + both
    return draw.sample(known, limit) if 0 < limit < len(known) else known


def bar(items: Iterable[Any], title: str) -> Iterable[Any]:
    """Return the items behind a progress bar."""
    shown: Iterable[Any] = tqdm(items, desc=title, unit="step", mininterval=1.0)
    return shown
