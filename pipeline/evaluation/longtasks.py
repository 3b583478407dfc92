"""All tasks over long texts, through all contexts; what is found is told after each row."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.config import ConfigError
from pipeline.evaluation.answers import squad_em, squad_f1
from pipeline.evaluation.intervals import paired
from pipeline.evaluation.reading import Figures, exponent, measured, read, share
from pipeline.evaluation.streamreading import followed
from pipeline.longcontext import corpora
from pipeline.longcontext.corpora import Asked
from pipeline.longcontext.fillers import filler
from pipeline.longcontext.lessons import TEST, fold_of
from pipeline.longcontext.newsstream import Stream
from pipeline.longcontext.opening import Contexts
from pipeline.longcontext.passagesearch import PassageSearch, widened
from pipeline.longcontext.passkey import found, passkeys
from pipeline.longcontext.ragqa import among_passages
from pipeline.longcontext.ragways import WAYS, Way
from pipeline.longcontext.running import Runner
from pipeline.longcontext.samples import Sample, encoded
from pipeline.longcontext.tasks import LongTasks

Tell = Callable[[Figures], None]
"""Takes all that was found so far; called after each row."""
SCALED = ("prefill seconds", "ms a token", "device bytes a text", "peak bytes")
"""Figures whose growth with the length is fitted."""


def everything(
    runner: Runner, tokenizer: Any, contexts: Contexts, tasks: LongTasks, seed: int, tell: Tell
) -> Figures:
    """Return what all tasks found.

    Returns:
        `passkey` by filler, length and context; `fits` by filler and context; `questions` by set and context;
        `streaming` by context; `searched` by set and way.

    Raises:
        UserError: a task's files are missing, or nothing was trained.
    """
    told: Figures = {"passkey": {}, "fits": {}, "questions": {}, "streaming": {}, "searched": {}}
    for kind in tasks.passkey.fillers:
        _passkey(runner, tokenizer, contexts, tasks, kind, seed, told, tell)
    for name in tasks.questions.sets:
        _questions(runner, tokenizer, contexts, tasks, name, seed, told, tell)
    if tasks.streaming.items:
        _streaming(runner, tokenizer, contexts, tasks, seed, told, tell)
    for name in tasks.searched.sets:
        _searched(runner, tokenizer, contexts, tasks, name, seed, told, tell)
    return told


def _passkey(
    runner: Runner,
    tokenizer: Any,
    contexts: Contexts,
    tasks: LongTasks,
    kind: str,
    seed: int,
    told: Figures,
    tell: Tell,
) -> None:
    text, asked = filler(kind, tokenizer), tasks.passkey
    limit = len(encoded(tokenizer, " " + "0" * asked.digits)) + 1
    rows: dict[str, Figures] = told["passkey"].setdefault(kind, {})
    for length, count, size in zip(asked.lengths, asked.samples, asked.batches, strict=True):
        samples = passkeys(tokenizer, text, length, count, asked.digits, tasks.asked, seed)
        of_length = rows.setdefault(str(length), {})
        for entry in tasks.contexts:
            step, at_once = tasks.fitting(entry, length, count, size)
            if not at_once:
                continue
            title = f"passkey {kind}, {length:,} tokens, {entry}"
            row = measured(
                runner,
                tokenizer,
                partial(contexts.make, entry, length, limit),
                samples[::step],
                at_once,
                limit,
                lambda said, sample: {"em": found(said, sample)},
                title,
            )
            of_length[entry] = row | _beside(row, of_length.get(tasks.contexts[0]))
            told["fits"][kind] = fits(rows)
            tell(told)


def _beside(row: Figures, first: Figures | None) -> Figures:
    """Return ratios of a row to that of the first context at the same length, where both were measured."""
    names = {"ms a token": "ms a token ratio", "device bytes a text": "device bytes ratio"}
    if not first:
        return {}
    return {
        ratio: row[name] / first[name] for name, ratio in names.items() if row.get(name) and first.get(name)
    }


def fits(rows: Mapping[str, Mapping[str, Figures]]) -> Figures:
    """Return the exponents by which figures of each context grow with the length: see `SCALED`.

    Args:
        rows: by length, then by context.
    """
    entries = dict.fromkeys(entry for of_length in rows.values() for entry in of_length)
    return {
        entry: {
            name: exponent({int(length): of[entry].get(name) for length, of in rows.items() if entry in of})
            for name in SCALED
        }
        for entry in entries
    }


def _judged(said: str, sample: Sample) -> dict[str, float]:
    return {"em": squad_em(said, sample.answers), "f1": squad_f1(said, sample.answers)}


def drawn(name: str, count: int, seed: int, taught: Sequence[str]) -> list[Asked]:
    """Return questions of a set in an order that the seed draws, `count` at most.

    Args:
        name: of the set.
        count: questions at most.
        seed: of the order.
        taught: sets that the retriever learned from; of those, only the questions that it never met.
    """
    known = corpora.questions(name)
    if name in taught:
        known = [asked for asked in known if fold_of(asked.text) == TEST]
    order = np.random.default_rng(seed).permutation(len(known))[:count].tolist()
    return [known[place] for place in order]


def _questions(
    runner: Runner,
    tokenizer: Any,
    contexts: Contexts,
    tasks: LongTasks,
    name: str,
    seed: int,
    told: Figures,
    tell: Tell,
) -> None:
    asked = tasks.questions
    samples = among_passages(
        tokenizer,
        drawn(name, asked.samples, seed, contexts.settings.training.teaching.sets),
        corpora.passages(),
        asked.length,
        tasks.asked,
        seed,
    )
    rows: Figures = told["questions"].setdefault(name, {})
    for entry in tasks.contexts:
        _, at_once = tasks.fitting(entry, asked.length, len(samples), asked.batch)
        if not at_once:
            continue
        row = measured(
            runner,
            tokenizer,
            partial(contexts.make, entry, asked.length, asked.answer_tokens),
            samples,
            at_once,
            asked.answer_tokens,
            _judged,
            f"{name}, {entry}",
        )
        first = rows.get(tasks.contexts[0])
        rows[entry] = row | _beside(row, first) | _beyond(row, first, tasks, seed)
        tell(told)


def _beyond(row: Figures, first: Figures | None, tasks: LongTasks, seed: int) -> Figures:
    """Return how far a row's figures are beyond the first context's on the same questions."""
    if not first or "right" not in row or "right" not in first:
        return {}
    told = {}
    for figure, values in row["right"].items():
        found = paired(values, first["right"][figure], tasks.bootstrap_samples, seed)
        told[f"{figure} beyond the first"] = found.difference._asdict() | {"p": found.p}
    return told


def _streaming(
    runner: Runner,
    tokenizer: Any,
    contexts: Contexts,
    tasks: LongTasks,
    seed: int,
    told: Figures,
    tell: Tell,
) -> None:
    asked = tasks.streaming
    for entry in asked.contexts:
        stream = Stream(
            tokenizer, corpora.news(), asked.streams, asked.segment, asked.made, tasks.asked, seed
        )
        told["streaming"][entry] = followed(
            runner,
            tokenizer,
            partial(contexts.make, entry, asked.segment, asked.answer_tokens),
            stream.segments(asked.items, asked.questions, asked.headlines),
            (asked.answer_tokens, asked.headline_tokens),
            f"news, {entry}",
        )
        tell(told)


def _searched(
    runner: Runner,
    tokenizer: Any,
    contexts: Contexts,
    tasks: LongTasks,
    name: str,
    seed: int,
    told: Figures,
    tell: Tell,
) -> None:
    asked = tasks.searched
    questions = drawn(name, asked.samples, seed, contexts.settings.training.teaching.sets)
    gold = {passage for question in questions for passage in question.gold}
    search = PassageSearch(widened(corpora.passages(), gold, asked.passages, seed))
    rows: Figures = told["searched"].setdefault(name, {})
    for text in asked.ways:
        kind, _, entry = text.partition("@")
        way = opened(kind, search, runner, tokenizer)
        row = answered(way, runner, tokenizer, contexts, entry, questions, tasks)
        rows[text] = row | _beyond(row, next(iter(rows.values()), None), tasks, seed)
        tell(told)


def opened(text: str, search: PassageSearch, runner: Runner, tokenizer: Any) -> Way:
    """Return the way of "NAME:key=value,…".

    Raises:
        ConfigError: there is no such way, or it takes other values.
    """
    name, _, values = text.partition(":")
    try:
        given = {key: int(value) for key, value in (pair.split("=") for pair in values.split(","))}
        return WAYS[name](search, runner, tokenizer, **given)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"longtasks.searched.ways: {text!r} is none; there is {', '.join(WAYS)}, each with whole numbers"
        ) from error


def answered(
    way: Way,
    runner: Runner,
    tokenizer: Any,
    contexts: Contexts,
    entry: str,
    questions: Sequence[Asked],
    tasks: LongTasks,
) -> Figures:
    """Return how questions are answered from what is found, and the tokens that are read.

    Prompts of about one length are read at once; lines are put in front of the shorter ones, uncounted.
    """
    limit = tasks.searched.answer_tokens
    prompts = [way.prompt(question.text) for question in questions]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place].ids))
    [line] = set(encoded(tokenizer, "\n"))
    right: dict[int, dict[str, float]] = {}
    held: dict[int, int] = {}
    for start in range(0, len(order), tasks.searched.batch):
        places = order[start : start + tasks.searched.batch]
        length = len(prompts[places[-1]].ids)
        samples = [
            Sample(
                torch.tensor([line] * (length - len(prompts[place].ids)) + prompts[place].ids),
                min(tasks.asked, len(prompts[places[0]].ids)),
                questions[place].answers,
                (),
                0.0,
            )
            for place in places
        ]
        reading = read(runner, tokenizer, contexts.make(entry, length, limit), samples, limit)
        for place, said, sample in zip(places, reading.said, samples, strict=True):
            right[place] = _judged(said, sample)
            held[place] = reading.held.device // len(places)
    each = {name: [right[place][name] for place in range(len(questions))] for name in ("em", "f1")}
    return {
        "n": len(questions),
        "right": {name: [round(value, 4) for value in values] for name, values in each.items()},
        **{name: share(values) for name, values in each.items()},
        "prefill tokens": float(np.mean([len(prompt.ids) for prompt in prompts])),
        "tokens read before": float(np.mean([prompt.before for prompt in prompts])),
        "device bytes a text": float(np.mean(list(held.values()))),
    }
