"""One table of every method and every task, out of what campaigns left.

    python -m pipeline.reporting.maintable multirun/world --plan world --out reports/h100/main.json

`--streams reports/h100/streams/*.json` fills cells that no job of a campaign has, from streams measured by
themselves; such a cell says `from` which command.
Answers to one question under several training seeds are averaged before anything else, as they are one draw
of a question; intervals and paired differences are over questions.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.benchmarks.plan import read
from pipeline.config import UserError
from pipeline.evaluation.intervals import bootstrap, paired
from pipeline.evaluation.metrics import auroc
from pipeline.reporting.campaigns import Frame, gathered, provenances, streamed
from pipeline.reporting.gather import OURS
from pipeline.reporting.mainsections import METHODS

SAMPLES = 10_000
AUROC, AUROC_SAMPLES = "refusal AUROC", 1000
REFUSALS = ("unseen", "unanswerable")
"""Splits that AUROC tells apart."""
ALONE = "alone"
"""Label of jobs that ran with a GPU to themselves: only theirs are milliseconds worth telling."""

Row = dict[str, Any]


def table(
    rows: Frame, cannot: Sequence[Mapping[str, Any]], beside: Mapping[str, Any] = MappingProxyType({})
) -> Row:
    """Return the figures, paired differences and costs of each task.

    `figures.TASK` holds n and, by method, mean, low, high, n, the mean of each seed and whether it is the
    best, or what says why there is none; `differences.TASK` how far ours is beyond each other method;
    `costs.TASK` by method the tokens of a prompt, and milliseconds a question where they mean something.

    Args:
        rows: of `gathered`.
        cannot: entries with `methods`, `tasks` (patterns) and `says`.
        beside: figures by task and method, for methods of which there is no row.
    """
    figures: Row = {}
    differences: Row = {}
    costs: Row = {}
    for task in dict.fromkeys([*rows["task"], *beside]):
        mine = rows[rows["task"] == task]
        values = {
            method: mine[mine["method"] == method].groupby("question", sort=True)["value"].mean()
            for method in ordered(mine["method"])
        }
        cells = _cells(values, mine)
        figures[task] = _whole(beside.get(task, {}) | cells, task, cannot)
        differences[task] = _differences(values)
        costs[task] = _costs(mine)
    for label in dict.fromkeys(task.partition("/")[0] for task in figures):
        task, parts = f"{label}/{AUROC}", [rows[rows["task"] == f"{label}/{split}"] for split in REFUSALS]
        if all(map(len, parts)):
            cells, differences[task] = told_apart(parts)
            figures[task] = _whole(cells, task, cannot)
    kept = {"differences": differences, "costs": costs}
    return {"figures": figures} | {n: {t: v for t, v in f.items() if v} for n, f in kept.items()}


def ordered(methods: Iterable[str]) -> list[str]:
    """Return the names in the order of the table."""
    there = set(methods)
    return [name for name in METHODS if name in there] + sorted(there - set(METHODS))


def _cells(values: Mapping[str, Frame], mine: Frame) -> dict[str, Row]:
    """Return the means with their intervals; methods that were asked the same share the resamples."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for method, found in values.items():
        alike.setdefault(tuple(found.index), []).append(method)
    told: dict[str, Row] = {}
    for questions, methods in alike.items():
        columns = np.column_stack([values[method].to_numpy(dtype=float) for method in methods])
        for method, interval in zip(methods, bootstrap(columns, SAMPLES, 0), strict=True):
            seeds = mine[mine["method"] == method].groupby("seed")["value"].mean()
            told[method] = interval._asdict() | {"n": len(questions)}
            told[method]["seeds"] = {str(seed): mean for seed, mean in seeds.items()}
    return {method: told[method] for method in values}


def _whole(cells: dict[str, Row], task: str, cannot: Sequence[Mapping[str, Any]]) -> Row:
    """Return n and the cells, the best marked, with words where the plan says why a method has none."""
    best = max(cell["mean"] for cell in cells.values())
    told: Row = {method: cell | {"best": cell["mean"] == best} for method, cell in cells.items()}
    for entry in cannot:
        if any(fnmatch(task, pattern) for pattern in entry["tasks"]):
            told = {method: {"says": entry["says"]} for method in entry["methods"]} | told
    return {"n": max(cell["n"] for cell in cells.values())} | {name: told[name] for name in ordered(told)}


def _differences(values: Mapping[str, Frame]) -> Row:
    """Return how far ours is beyond each other method on the questions that both were asked."""
    told: Row = {}
    for method, other in values.items():
        if method == OURS or OURS not in values:
            continue
        shared = values[OURS].index.intersection(other.index)
        if len(shared):
            pair = [found[shared].to_numpy(dtype=float) for found in (values[OURS], other)]
            found = paired(pair[0], pair[1], SAMPLES, 0)
            told[method] = found.difference._asdict() | {"p": found.p, "n": len(shared)}
    return told


def _costs(mine: Frame) -> Row:
    if "prompts" not in mine or mine["prompts"].isna().all():
        return {}
    told: Row = {}
    for method in ordered(mine["method"]):
        own = mine[mine["method"] == method]
        if own["prompts"].sum():
            told[method] = {"prompt_tokens": own["tokens"].sum() / own["prompts"].sum()}
        if mine["task"].iloc[0].startswith(f"{ALONE}/"):
            told.setdefault(method, {})["ms"] = own["ms"].mean()
    return told


def told_apart(parts: Sequence[Frame]) -> tuple[dict[str, Row], Row]:
    """Return the AUROC of refusal scores by method, and how far ours is beyond each other one.

    Seeds are averaged. Intervals are over the questions that all methods were asked; methods share the
    resamples.

    Args:
        parts: rows of answerable questions, and of those that no fact answers.
    """
    scores = [
        part.pivot_table(index="question", columns=["method", "seed"], values="refusal") for part in parts
    ]
    methods = ordered(set(scores[0].columns.get_level_values(0)) & set(scores[1].columns.get_level_values(0)))
    held = [score[methods].dropna() for score in scores]
    random = np.random.default_rng(0)
    draws = [[np.arange(len(part)) for part in held]]
    draws += [[random.integers(len(part), size=len(part)) for part in held] for _ in range(AUROC_SAMPLES)]
    found = {}
    for method in methods:
        low, high = (part[method].to_numpy(dtype=float) for part in held)
        found[method] = np.array(
            [np.mean([auroc(low[a, s], high[b, s]) for s in range(low.shape[1])]) for a, b in draws]
        )
    count = {"n": sum(map(len, held))}
    cells = {method: _bounds(values) | count for method, values in found.items()}
    others = [method for method in methods if method != OURS and OURS in found]
    return cells, {method: _bounds(found[OURS] - found[method]) | count for method in others}


def _bounds(values: Any) -> Row:
    """Return the first value as the mean, with the bounds of the middle 95 % of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, help="roots of campaigns")
    parser.add_argument("--plan", nargs="+", default=[], help="files of conf/campaign that say what can't be")
    parser.add_argument("--streams", nargs="+", default=[], type=Path, help="files of the benchmark streams")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    cannot = [entry for name in given.plan for entry in read(name).get("cannot", [])]
    told = provenances(given.roots) | table(gathered(given.roots), cannot, streamed(given.streams, "world"))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
