"""The report's tables and its flat figures, from what was gathered."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.reporting.compare import Comparison, split_names
from pipeline.reporting.gather import Figures, Method
from pipeline.reporting.tables import MISSING, Cell, Table, best_marked, fixed, number, percent, points

SPLITS = {
    "valid": "held-out entities, used to choose settings",
    "seen": "facts trained on, new wording",
    "unseen": "entities never trained on",
    "unseen_relation": "relations never trained on",
    "two_hop": "entities never trained on, over two facts",
    "unanswerable": "no fact answers; right means refused",
    "checked": "human questions whose facts were checked by hand",
    "unchanged": "slots that the update leaves alone, before it",
    "updated": "slots whose value changed, after the update",
    "added": "slots that the update added",
    "unchanged_after": "the questions of unchanged, after the update",
}
"""What each split asks, in a few words."""

COSTS = (("ms", "ms a question", 1), ("prompt_tokens", "tokens a prompt", 1))
"""What an answer costs: the figure of a split, what it is called, and its decimals."""


def per_split(methods: Sequence[Method], figure: str) -> Table:
    """Return one figure as splits × methods, in percent with intervals, the best of each row marked."""
    rows = []
    for split in split_names(methods):
        cells = [percent(method.splits.get(split, {}).get(figure)) for method in methods]
        if any(cell is not MISSING for cell in cells):
            rows.append([Cell(split), _count(methods, split, figure), *best_marked(cells)])
    return Table(["split", "n", *(method.name for method in methods)], rows)


def grounding(methods: Sequence[Method]) -> Table:
    """Return where gold stood among facts read and candidates, one row a split and method."""
    depths = sorted({depth for method in methods for depth in method.runs[0].metrics["recall_at"]})
    shown = sorted({depths[len(depths) // 2], depths[-1]})
    names = ["acc@1", "acc@5", *(f"recall@{depth}" for depth in shown)]
    rows = [
        [Cell(split), Cell(method.name), *(percent(method.splits[split].get(name)) for name in names)]
        for split in split_names(methods)
        for method in methods
        if any(method.splits.get(split, {}).get(name) for name in names)
    ]
    return Table(["split", "method", *(name.replace("acc", "ACC") for name in names)], rows)


def refusals(methods: Sequence[Method]) -> Table:
    """Return how well each method knows that no fact answers, and how often it refuses wrongly."""
    rows = [
        [
            Cell(method.name),
            fixed(method.mean("refusal_auroc")),
            percent(method.splits.get("unanswerable", {}).get("refused")),
            percent(method.splits.get("unseen", {}).get("refused")),
        ]
        for method in methods
    ]
    return Table(["method", "AUROC", "refused, unanswerable %", "refused, unseen %"], rows)


def costs(methods: Sequence[Method], stages: Figures) -> Table:
    """Return what answering, updating and training took."""
    trained = stages.get("train", {})
    rows = []
    for method in methods:
        asked, update = method.mean("seconds_per_question"), method.mean("update_seconds")
        training = trained.get(method.name, {})
        rows.append(
            [
                Cell(method.name),
                fixed(None if asked is None else 1000 * asked, 1),
                fixed(update),
                fixed(training.get("seconds"), 0),
                number(training.get("steps")),
                number(training.get("parameters")),
            ]
        )
    header = ["method", "ms per question", "update, s", "training, s", "steps", "trained parameters"]
    return Table(header, rows)


def per_answer(methods: Sequence[Method]) -> Table:
    """Return milliseconds a question and tokens a prompt, as splits × methods."""
    rows = []
    for split in split_names(methods):
        for name, unit, decimals in COSTS:
            found = [method.splits.get(split, {}).get(name) for method in methods]
            rows.append([Cell(split), Cell(unit), *(fixed(value, decimals) for value in found)])
    return Table(["split", "cost", *(method.name for method in methods)], rows)


def by_seed(methods: Sequence[Method]) -> Table:
    """Return the EM of each training seed, in percent and in order of the seeds, as splits × methods."""
    rows = []
    for split in split_names(methods):
        shares = [method.by_seed(split) for method in methods]
        rows.append(
            [Cell(split), *(Cell(" · ".join(f"{100 * share:.1f}" for share in each)) for each in shares)]
        )
    return Table(["split", *(method.name for method in methods)], rows)


def differences(comparisons: Sequence[Comparison]) -> Table:
    """Return paired differences of EM in points, with interval, questions won and lost, and p."""
    rows = [
        [
            Cell(found.split),
            Cell(f"{found.first} − {found.second}"),
            points(found.result.difference._asdict()),
            number(found.result.wins),
            number(found.result.losses),
            number(found.questions),
            fixed(found.result.p),
        ]
        for found in comparisons
    ]
    header = ["split", "methods", "EM difference, points", "only first right", "only second right", "n", "p"]
    return Table(header, rows)


def differences_by_split(comparisons: Sequence[Comparison]) -> Table:
    """Return the paired differences as splits × other methods: points, interval and p."""
    others = list(dict.fromkeys(found.second for found in comparisons))
    cells = {(found.split, found.second): found.result for found in comparisons}
    rows = []
    for split in dict.fromkeys(found.split for found in comparisons):
        row = [Cell(split)]
        for other in others:
            if result := cells.get((split, other)):
                row.append(points(result.difference._asdict() | {"p": result.p}))
            else:
                row.append(MISSING)
        rows.append(row)
    return Table(["split", *(f"minus {other}" for other in others)], rows)


def localities(comparisons: Sequence[Comparison]) -> Table:
    """Return what the update did to questions about slots that it leaves alone."""
    rows = [
        [
            Cell(found.first),
            points(found.result.difference._asdict()),
            number(found.result.wins),
            number(found.result.losses),
            number(found.questions),
            fixed(found.result.p),
        ]
        for found in comparisons
    ]
    return Table(
        ["method", "after − before, points", "only after right", "only before right", "n", "p"], rows
    )


def scalars(figures: Figures, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the numbers, texts and truth values inside nested objects, each with its dotted path."""
    found: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str | bool):
            found.append((f"{prefix}{name}", value))
    return found


def flat(
    methods: Sequence[Method], pairs: Sequence[Comparison], locals_: Sequence[Comparison], stages: Figures
) -> Figures:
    """Return every figure of the report by a short path, so that `dvc metrics diff` names each in a line.

    `evaluate.<method>.<split>.<figure>` is a mean, with `_low` and `_high` beside it; `paired` and
    `locality` hold differences; each stage's own JSON stands under its name.
    """
    evaluated: Figures = {}
    for method in methods:
        figures: Figures = {split: _flat_split(method, split) for split in split_names([method])}
        for key in ("refusal_auroc", "seconds_per_question", "update_seconds", "update_changes"):
            if (value := method.mean(key)) is not None:
                figures[key] = value
        evaluated[method.name] = figures | {"seeds": len(method.runs)}
    paired: Figures = {}
    for found in pairs:
        paired.setdefault(f"{found.first}_minus_{found.second}", {})[found.split] = _flat_pair(found)
    locality = {found.first: _flat_pair(found) for found in locals_}
    return {"evaluate": evaluated, "paired": paired, "locality": locality, **stages}


def accuracy_rows(methods: Sequence[Method]) -> pd.DataFrame:
    """Return EM and F1 by split and method as columns method, split, n, em, em_low, em_high, f1, …."""
    return pd.DataFrame(
        [
            {"method": method.name, "split": split, **_flat_split(method, split, ("em", "f1"))}
            for split in split_names(methods)
            for method in methods
            if split in method.splits
        ]
    )


def recall_rows(methods: Sequence[Method]) -> pd.DataFrame:
    """Return recall@N as columns method, split, n, recall, low, high."""
    rows = [
        {"method": method.name, "split": split, "n": depth, "recall": figure["mean"]}
        | {name: figure[name] for name in ("low", "high")}
        for split in split_names(methods)
        for method in methods
        for depth in method.runs[0].metrics["recall_at"]
        if (figure := method.splits.get(split, {}).get(f"recall@{depth}"))
    ]
    return pd.DataFrame(rows, columns=["method", "split", "n", "recall", "low", "high"])


def _flat_split(method: Method, split: str, only: Sequence[str] = ()) -> Figures:
    figures: Figures = {"n": method.splits[split]["n"]}
    for name, figure in method.splits[split].items():
        if isinstance(figure, dict) and (not only or name in only):
            figures |= {name: figure["mean"], f"{name}_low": figure["low"], f"{name}_high": figure["high"]}
        elif figure is not None and not only:
            figures[name] = figure
    if len(method.runs) > 1 and not only:
        by_seed = method.by_seed(split)
        figures |= {"em_seed_min": min(by_seed), "em_seed_max": max(by_seed)}
    return figures


def _flat_pair(found: Comparison) -> Figures:
    difference = found.result.difference._asdict()
    return {
        "n": found.questions,
        **difference,
        "wins": found.result.wins,
        "losses": found.result.losses,
        "p": found.result.p,
    }


def _count(methods: Sequence[Method], split: str, figure: str) -> Cell:
    asked = [method.splits[split] for method in methods if split in method.splits]
    counts = {(figures[figure] or {}).get("n", figures["n"]) for figures in asked}
    return Cell("–".join(str(count) for count in sorted(counts)), value=float(max(counts)))
