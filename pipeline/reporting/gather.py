"""Reads what the stages left behind: evaluations, training curves, and one small JSON a stage."""

import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Paths, UserError
from pipeline.evaluation.summary import ANSWERS, Bootstrap, summarise

logger = logging.getLogger(__name__)

Figures = dict[str, Any]

OURS = "ours"
"""The method that comes first and that the others are held against, where it was evaluated."""


@dataclass(frozen=True)
class Run:
    """One evaluation: what `metrics.json` holds and the rows of `answers.parquet`."""

    folder: Path
    metrics: Figures
    rows: pd.DataFrame


@dataclass(frozen=True)
class Method:
    """The evaluations of one method, one a seed."""

    name: str
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, in order."""
        return [run.metrics["seed"] for run in self.runs]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The answers of all runs, one below the other."""
        return pd.concat([run.rows for run in self.runs], ignore_index=True)

    @cached_property
    def splits(self) -> Figures:
        """Figures of each split: the run's own, or those over all seeds where there are several."""
        first = self.runs[0].metrics
        if len(self.runs) == 1:
            return dict(first["splits"])
        how = Bootstrap(first["bootstrap_samples"], min(self.seeds))
        return summarise(self.rows, first["recall_at"], how)

    def mean(self, key: str) -> float | None:
        """Return the mean over the runs of a figure beside the splits; None where it is absent."""
        values = [run.metrics[key] for run in self.runs if run.metrics.get(key) is not None]
        return sum(values) / len(values) if values else None

    def by_seed(self, split: str, figure: str = "em") -> list[float]:
        """Return the mean of a figure in each run that asked the split."""
        return [
            run.metrics["splits"][split][figure]["mean"]
            for run in self.runs
            if split in run.metrics["splits"]
        ]


def methods(folder: Path) -> list[Method]:
    """Return every evaluation below `folder`: ours, then the others, best on `unseen` first.

    Raises:
        UserError: there is none, one is incomplete, damaged or holds a value that is not a number, or two
            have the same method and seed; the text names the file and the remedy.
    """
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for path in sorted(folder.glob("*/metrics.json")):
        run = Run(path.parent, _metrics(path), _rows(path.parent / "answers.parquet"))
        name, seed = run.metrics["method"], run.metrics["seed"]
        if seed in found[name]:
            other = found[name][seed].folder
            raise UserError(f"{other} and {run.folder} both hold {name} with seed {seed}; delete one of them")
        found[name][seed] = run
    if not found:
        raise UserError(f"{folder}: no evaluation (*/metrics.json); run `dvc repro` to make them")
    gathered = [Method(name, [runs[seed] for seed in sorted(runs)]) for name, runs in sorted(found.items())]
    return sorted(gathered, key=lambda method: (method.name != OURS, -_unseen(method)))


def curves(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the training curve of each method below `folder` that left one: a column `step` and numbers.

    Raises:
        UserError: a curve lacks the column `step`, or a column holds something that is not a number.
    """
    return {path.parent.name: _curve(path) for path in sorted(folder.glob("*/curve.csv"))}


def stages(paths: Paths) -> Figures:
    """Return the JSON of each stage that has run, and `train` with that of each method.

    Raises:
        UserError: a file is damaged.
    """
    places = {
        "ingest": paths.tables,
        "embed": paths.rotate,
        "synthesize": paths.kv,
        "index": paths.index,
    }
    gathered: Figures = {}
    for stage, folder in places.items():
        path = folder / f"{stage}.json"
        if path.is_file():
            gathered[stage] = read_json(path)
        else:
            logger.warning("%s: not found, so the report says nothing of %s", path, stage)
    trained = {path.parent.name: read_json(path) for path in sorted(paths.adapters.glob("*/train.json"))}
    return gathered | ({"train": trained} if trained else {})


def read_json(path: Path) -> Figures:
    """Return the object in a JSON file.

    Raises:
        UserError: it is damaged, is not an object, or holds NaN or Infinity, which JSON does not know.
    """

    def refuse(constant: str) -> None:
        raise UserError(f"{path}: holds {constant}, which is no measurement; delete it and run `dvc repro`")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold an object, not a {type(content).__name__}; run `dvc repro`")
    return content


def made(told: Figures) -> str:
    """Return how a file of measurements was made: its command, commit and machine.

    Raises:
        KeyError: it does not say.
    """
    commit, _, state = told["commit"].partition("-")
    machine = told.get("machine", {})
    on = machine.get("gpu") or machine.get("processor") or machine.get("platform", "a machine not named")
    return f"{told['command']}; commit {commit[:12]}{f' ({state})' if state else ''}, {on}"


def _unseen(method: Method) -> float:
    return float(method.splits["unseen"]["em"]["mean"]) if "unseen" in method.splits else 0.0


def _metrics(path: Path) -> Figures:
    metrics = read_json(path)
    for key in ("method", "seed", "splits", "recall_at", "bootstrap_samples"):
        if key not in metrics:
            raise UserError(f"{path}: lacks {key!r}; delete its folder and run `dvc repro`")
    return metrics


def _rows(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: not found beside its metrics.json; delete its folder and run `dvc repro`")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); delete its folder and run `dvc repro`") from error
    missing = [name for name in ANSWERS.names if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]!r}; delete its folder and run `dvc repro`")
    frame: pd.DataFrame = table.select(ANSWERS.names).to_pandas(integer_object_nulls=True)
    return frame


def _curve(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete its folder and run `dvc repro`") from error
    if "step" not in frame.columns:
        raise UserError(f"{path}: lacks the column 'step'; delete its folder and run `dvc repro`")
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise UserError(f"{path}: column {column!r} holds text; delete its folder and run `dvc repro`")
    return frame
