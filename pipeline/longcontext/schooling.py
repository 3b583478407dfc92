"""From texts to a retriever: what is recorded once, and the three phases that train on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.longcontext.answering import Answers, Recorded, record
from pipeline.longcontext.episodes import Reading, Texts, Window
from pipeline.longcontext.lessons import FOLDS, Lessons, lessons
from pipeline.longcontext.lowrank import Bases, Calibration
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import LongContext, Training
from pipeline.longcontext.training import Row, Whitened, mixed, rewarded, started, warmed

PHASES = ("warm", "hybrid", "ppo")
CALIBRATION_STATES = 65536
"""States that the whitening is made of, at most."""


@dataclass(frozen=True)
class Schooled:
    """Retrievers after each phase; where a phase is left out, that of the phase before."""

    fresh: Retriever
    """Before any phase; all have its whitening."""
    warm: Retriever
    hybrid: Retriever
    ppo: Retriever
    curves: dict[str, list[Row]]
    """Figures of each step, by phase."""


def written(tokenizer: Any, settings: LongContext, seed: int) -> dict[str, Lessons]:
    """Return the lessons of each fold.

    Raises:
        UserError: files of a data set are missing.
    """
    window, teaching = Window.of(settings.dsram), settings.training.teaching
    return {fold: lessons(tokenizer, teaching, window, fold, seed) for fold in FOLDS}


def recorded(
    runner: Runner, of_folds: dict[str, Lessons], settings: LongContext, done: Callable[[int], object]
) -> dict[str, Recorded]:
    """Read the texts of each fold once."""
    window, teaching = Window.of(settings.dsram), settings.training.teaching
    return {
        fold: record(
            runner, one.to(runner.lm.device), window, teaching.at_once, teaching.questions_at_once, done
        )
        for fold, one in of_folds.items()
    }


def bases_of(texts: Texts) -> Bases:
    """Return the bases of the keys and values of all blocks that can be fetched."""
    layers, first = len(texts.keys), texts.window.first_layer
    calibration = Calibration(Reading(layers, texts.window), first, layers)
    for layer in range(first, layers):
        for keys, values in zip(texts.keys[layer].fetched(), texts.values[layer].fetched(), strict=True):
            calibration.take(layer, keys, values)
    return calibration.bases()


def schooled(
    runner: Runner,
    answers: Answers,
    training: Training,
    seed: int,
    tell: Callable[[str, Row], object],
    before: Schooled | None = None,
) -> Schooled:
    """Train; return the retrievers.

    Args:
        runner: of the frozen model.
        answers: to the training questions.
        training: its values.
        seed: of all draws.
        tell: told each step's phase and figures.
        before: what the same seed came to with other values of PPO: its phases before that are taken over.
    """
    recorded = answers.recorded
    curves: dict[str, list[Row]] = {phase: [] for phase in PHASES}

    def telling(phase: str) -> Callable[[Row], None]:
        def told(row: Row) -> None:
            curves[phase].append(row)
            tell(phase, row)

        return told

    if before is None:
        states = recorded.texts.states.flatten(0, 2)
        states = states[:: max(1, len(states) // CALIBRATION_STATES)]
        fresh = started(states.shape[1], training.towers, states, seed)
    else:
        fresh = before.fresh
    with torch.no_grad():
        whitened = Whitened(fresh, recorded)
    if before is None:
        lessons = recorded.lessons
        gold = lessons.exact if training.warm.relevance == "answer" else lessons.gold
        warm = warmed(fresh, whitened, gold, training.warm, seed, telling("warm"))
        hybrid = mixed(warm, runner, recorded, whitened, training.hybrid, seed, telling("hybrid"))
    else:
        warm, hybrid = before.warm, before.hybrid
        curves |= {phase: before.curves[phase] for phase in PHASES[:-1]}
    last = rewarded(hybrid, answers, whitened, training.ppo, training.limit, seed, telling("ppo"))
    return Schooled(fresh, warm, hybrid, last, curves)


def reading(of_folds: dict[str, Lessons]) -> int:
    """Return how much there is to record."""
    return sum(len(one.ids) + len(one.rows) for one in of_folds.values())


def steps(training: Training) -> int:
    """Return how many steps there are to train before PPO, whose rounds come on top."""
    return training.warm.steps + training.hybrid.steps
