"""Gathers what every stage found into `reports/`: figures, plots, a page and a table.

Beside what the stages left, it shows the measurements in `reports/`, where there are any. Writes
`metrics.json` (DVC metrics), `plots/*.csv` and `plots/*.png` (DVC plots), `report.html`, the same as text
(`report.md`) and the table of exact match alone (`results.md`).
Nothing in them depends on when or where the stage runs, so the same inputs give the same bytes.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import Paths, stage
from pipeline.evaluation.summary import Bootstrap
from pipeline.reporting import content, figures, gather
from pipeline.reporting.compare import comparisons, locality, reference
from pipeline.reporting.measured import measured
from pipeline.reporting.page import headline, page
from pipeline.reporting.paper import paper_figures
from pipeline.reporting.sections import SECTIONS
from pipeline.reporting.text import text


@stage
def report(paths: Paths, seed: int, out: Path) -> None:
    """Write the report on every evaluation to `out`, and print the results and where it is.

    Raises:
        UserError: there is no evaluation, or a file that a stage left is damaged.
    """
    methods = gather.methods(paths.evaluations)
    names = [method.name for method in methods]
    curves, stages = gather.curves(paths.adapters), gather.stages(paths)
    how = Bootstrap(reference(methods).runs[0].metrics["bootstrap_samples"], seed)
    pairs, locals_ = comparisons(methods, how), locality(methods, how)

    accuracy, recall = content.accuracy_rows(methods), content.recall_rows(methods)
    plots: dict[str, Figure] = {"accuracy": figures.accuracy(accuracy, names)}
    tables = {"accuracy": accuracy, "recall": recall}
    if len(recall):
        plots["recall"] = figures.recall(recall, names)
    if curves:
        plots["training"] = figures.training(curves, names)
        tables["training"] = pd.concat([curve.assign(method=name) for name, curve in curves.items()])

    paper = paper_figures(paths.reports / "figures")
    found = measured(SECTIONS, paths.reports)
    plots |= {drawn.name: drawn.plot for drawn in paper}

    (out / "plots").mkdir(parents=True, exist_ok=True)
    for name, plot in plots.items():
        figures.save_png(plot, out / "plots" / f"{name}.png")
    for name, table in tables.items():
        table.to_csv(out / "plots" / f"{name}.csv", index=False, lineterminator="\n")
    numbers = json.dumps(content.flat(methods, pairs, locals_, stages), indent=2, allow_nan=False)
    results = content.per_split(methods, "em")
    _write(out / "metrics.json", numbers)
    _write(out / "report.html", page(methods, pairs, locals_, stages, plots, paper, found))
    _write(out / "report.md", text(methods, pairs, locals_, stages, paper, found))
    _write(out / "results.md", f"{_legend(methods)}\n\n{results.markdown()}")
    sys.stdout.write(f"\n{_legend(methods)}\n\n{results.plain()}\n\n{headline(methods)}\n")
    sys.stdout.write(f"The report: {out / 'report.html'}\n")


def _legend(methods: list[gather.Method]) -> str:
    seeds = max(len(method.runs) for method in methods)
    return (
        f"Exact match in percent [95 % interval], {seeds} seed{'s' if seeds > 1 else ''}; "
        "for unanswerable questions a refusal is right."
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    report()
