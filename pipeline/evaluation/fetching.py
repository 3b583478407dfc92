"""What a trained policy fetches for an answer, beside what its warm start needs to answer as well.

The warm start has scores but no reason to stop anywhere: it may fetch a fixed number of blocks, or those
above any threshold. Of all these ways the cheapest is taken that answers as often as the policy does, by
the validation questions; then both are measured on test questions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.evaluation.intervals import bootstrap, paired
from pipeline.longcontext.answering import Answers
from pipeline.longcontext.lessons import TEST, VALID
from pipeline.longcontext.policy import NONE
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.running import Runner
from pipeline.longcontext.schooling import Schooled, reading, recorded, written
from pipeline.longcontext.settings import LongContext, Training
from pipeline.longcontext.training import Whitened, chosen

Figures = dict[str, Any]
ANYTHING = -1e8
"""A threshold that every score is above."""


class Way(NamedTuple):
    """How many blocks are fetched."""

    name: str
    limit: int
    threshold: float


class Measured(NamedTuple):
    """Of each question."""

    blocks: NDArray[np.float64]
    right: NDArray[np.float64]
    lost: NDArray[np.float64]

    def told(self) -> Figures:
        """Return the means."""
        return {name: float(part.mean()) for name, part in self._asdict().items()}


class Fold(NamedTuple):
    """Questions that are measured."""

    answers: Answers
    whitened: Whitened


def read_once(runner: Runner, tokenizer: Any, settings: LongContext, seed: int) -> dict[str, Answers]:
    """Write the lessons of each fold and read them; return what answers their questions.

    Raises:
        UserError: files that the lessons are made of are missing.
    """
    of_folds = written(tokenizer, settings, seed)
    with tqdm(total=reading(of_folds), desc="texts and questions are read") as bar:
        records = recorded(runner, of_folds, settings, bar.update)
    at_once = settings.training.teaching.questions_at_once
    return {fold: Answers(runner, one, at_once) for fold, one in records.items()}


def ways(training: Training) -> list[Way]:
    """Return the ways that the warm start may fetch by."""
    counts = [Way(f"{count} blocks", count, ANYTHING) for count in training.counts]
    return counts + [Way(f"above {place:g}", training.limit, place) for place in training.thresholds]


def measured(retriever: Retriever, fold: Fold, way: Way) -> Measured:
    """Return what one way fetches and answers."""
    blocks = chosen(retriever, fold.whitened, way.limit, way.threshold)
    questions = torch.arange(len(blocks), device=blocks.device)
    lost, right = fold.answers(questions, blocks)
    parts = ((blocks != NONE).sum(dim=1), right, lost)
    return Measured(*(part.double().cpu().numpy() for part in parts))


def cheapest(figures: Sequence[Figures], right: float) -> int:
    """Return the place of the cheapest way that is right as often; where none is, of the best one."""
    good = [place for place, row in enumerate(figures) if row["right"] >= right]
    if good:
        return min(good, key=lambda place: (figures[place]["blocks"], -figures[place]["right"]))
    return min(range(len(figures)), key=lambda place: (-figures[place]["right"], figures[place]["blocks"]))


def beside(
    policy: Retriever,
    warm: Retriever,
    valid: Fold,
    test: Fold,
    training: Training,
    done: Callable[[], object],
) -> tuple[Figures, Measured, Measured]:
    """Return figures of both, and what the policy and the chosen way of the warm start did on test questions.

    Args:
        policy: that knows where to stop.
        warm: what it began as.
        valid: what the way is chosen on.
        test: what is told.
        training: the ways.
        done: called after each way.
    """
    own = Way("policy", training.limit, 0.0)
    first, last = measured(policy, valid, own), measured(policy, test, own)
    rows: list[Figures] = []
    for way in ways(training):
        rows.append({"way": way.name, "valid": measured(warm, valid, way).told()})
        done()
    place = cheapest([row["valid"] for row in rows], first.told()["right"])
    tested = [measured(warm, test, way) for way in ways(training)]
    for row, found in zip(rows, tested, strict=True):
        row["test"] = found.told()
    told = {
        "policy": {"valid": first.told(), "test": last.told()},
        "warm": rows,
        "chosen": rows[place]["way"],
        "policy curve": [
            {"way": way.name, "test": measured(policy, test, way).told()}
            for way in ways(training)
            if way.threshold > ANYTHING
        ],
    }
    return told, last, tested[place]


def compared(
    found: Schooled, answers: dict[str, Answers], training: Training, done: Callable[[], object]
) -> tuple[Figures, Measured, Measured]:
    """Return what `beside` does, of what PPO made of a warm start."""
    with torch.no_grad():
        valid, test = (
            Fold(answers[one], Whitened(found.fresh, answers[one].recorded)) for one in (VALID, TEST)
        )
    return beside(found.ppo, found.warm, valid, test, training, done)


def saved(policy: Sequence[Measured], warm: Sequence[Measured], samples: int, seed: int) -> Figures:
    """Return the share of fetched blocks that the policy saves, and by how much it is right more often.

    The questions of several seeds are one sample; the interval of the share is that of a ratio of means over
    resampled questions.
    """
    spent = np.stack([np.concatenate([one.blocks for one in side]) for side in (policy, warm)])
    right = [np.concatenate([one.right for one in side]) for side in (policy, warm)]
    generator = np.random.default_rng(seed)
    picked = generator.integers(spent.shape[1], size=(samples, spent.shape[1]))
    means = spent[:, picked].mean(axis=2)
    shares = 1 - means[0] / np.maximum(means[1], 1e-9)
    low, high = np.quantile(shares, [0.025, 0.975]).tolist()
    mean = 1 - float(spent[0].mean() / max(float(spent[1].mean()), 1e-9))
    return {
        "saved": {"mean": mean, "low": low, "high": high},
        "right": paired(right[0], right[1], samples, seed)._asdict(),
        "policy right": bootstrap(right[0], samples, seed)[0]._asdict(),
        "warm right": bootstrap(right[1], samples, seed)[0]._asdict(),
    }
