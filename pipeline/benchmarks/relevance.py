"""Draws AtlasKV's figure 5 for our methods: `python -m pipeline.benchmark relevance`.

BERTScore of every method's answers below `paths.evaluations` (what `evaluate` left) against the right ones,
and a judge's score where `relevance.judged` asks for some, from any OpenAI-compatible service. The figures go
to relevance.json.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.relevance import TokenStates, best, judged
from pipeline.evaluation.summary import per_question
from pipeline.kg.writers import Endpoint
from pipeline.reporting.gather import Method, methods
from pipeline.trainer import Trainer
from pipeline.weights import Encoder

SCORES = ("precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """What is compared."""

    splits: list[str]
    """Of the evaluations; questions that no fact answers are left out."""
    judged: int
    """Questions of each method and split that a judge is asked about too, drawn by the seed; 0 for none."""
    instruction: str
    """What the judge is asked, with {question}, {answers} and {said}; a number from 0 to 1 is to be said."""
    endpoint: Endpoint
    """The judge's service; it is called only where `judged` is above 0."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError("relevance.splits must not be empty")
        if self.judged < 0 or self.bootstrap_samples < 1:
            raise ValueError("relevance.judged must be at least 0 and bootstrap_samples at least 1")
        missing = [name for name in ("question", "answers", "said") if f"{{{name}}}" not in self.instruction]
        if missing:
            raise ValueError(f"relevance.instruction must hold {{{missing[0]}}}")


@stage
def relevance(
    relevance: Relevance,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Compare the answers of every method on every split with the right ones."""
    found = methods(paths.evaluations)
    states = TokenStates(encoder, trainer.device)
    figures: dict[str, Any] = {}
    for method in found:
        rows = asked(method, relevance.splits)
        texts = [*rows["prediction"], *(one for answers in rows["answers"] for one in answers)]
        states.add(texts, partial(tqdm, desc=f"{method.name} texts", unit="batch"))
        rows[list(SCORES)] = best(states, rows["prediction"].tolist(), rows["answers"].tolist())
        for split, part in rows.groupby("split", sort=False):
            one = _figures(part, relevance.bootstrap_samples)
            if relevance.judged:
                one["judge"] = _judged(part, relevance, seed, f"{method.name} {split}")
            figures.setdefault(method.name, {})[str(split)] = one
    seeds = sorted({number for method in found for number in method.seeds})
    told = provenance(overridden("python -m pipeline.benchmark relevance"), seeds)
    told |= {"encoder": encoder.name, "judge": relevance.endpoint.model if relevance.judged else None}
    told |= {"settings": asdict(relevance), "figures": figures}
    (out / "relevance.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def asked(method: Method, splits: list[str]) -> pd.DataFrame:
    """Return the rows of a method that have a right answer; a refusal has said nothing.

    Raises:
        UserError: there is none in these splits.
    """
    rows = method.rows[method.rows["split"].isin(splits) & (method.rows["kind"] != "unanswerable")]
    if rows.empty:
        raise UserError(
            f"relevance.splits: {method.name} answered no question of {', '.join(splits)}; it has "
            f"{', '.join(method.rows['split'].unique())}"
        )
    return rows.assign(prediction=rows["prediction"].mask(rows["refused"].astype(bool), ""))


def _figures(rows: pd.DataFrame, samples: int) -> dict[str, Any]:
    """Return the mean of each score with its interval; several seeds of a question count as one."""
    values = per_question(rows, [*SCORES, "em"])
    intervals = bootstrap(values.to_numpy(dtype=np.float64), samples, 0)
    told: dict[str, Any] = {n: i._asdict() for n, i in zip(values.columns, intervals, strict=True)}
    return told | {"questions": len(values)}


def _judged(rows: pd.DataFrame, relevance: Relevance, seed: int, title: str) -> dict[str, Any]:
    """Return what a judge says of some of the answers, and how many of its replies held no score.

    Raises:
        UserError: the service can't be reached or refuses.
    """
    some = rows.sample(min(relevance.judged, len(rows)), random_state=seed)
    columns = [some[name] for name in ("text", "answers", "prediction")]
    progress = tqdm(list(zip(*columns, strict=True)), desc=f"{title} judged", unit="answer")
    try:
        opinions = [judged(relevance.endpoint, relevance.instruction, *row) for row in progress]
    except UserError as error:
        reason = str(error).partition(";")[0]  # the rest names the settings of `synthesize`
        raise UserError(
            f"relevance.endpoint: {reason}; correct it in conf/relevance, or set relevance.judged to 0"
        ) from error
    scores = [opinion.score for opinion in opinions if opinion.score is not None]
    told: dict[str, Any] = {"asked": len(opinions), "unparsable": len(opinions) - len(scores)}
    told["tokens"] = sum(opinion.tokens for opinion in opinions)
    told["score"] = bootstrap(scores, relevance.bootstrap_samples, 0)[0]._asdict() if scores else None
    return told


if __name__ == "__main__":
    relevance()
