"""A report on one group of runs in Weights & Biases: `python -m pipeline.reporting.wandb_report k`.

The group is a sweep (the name of its file in conf/sweep) or any other. What the report is to show (EM by
split and method, training curves, where attention goes, the swept settings beside what came of them) is
written to a JSON file, without any network; `--send` has Weights & Biases draw it (the extra `report`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import CONF, UserError
from pipeline.reporting.content import SPLITS

Row = dict[str, Any]

STEP = "trainer/global_step"
"""What Lightning logs as the step."""
METHOD = "evaluate.method"
"""Where a run's summary names its method."""
CURVES = {
    "Training loss": ("train/loss", "train/lm_loss", "train/aux_loss"),
    "Learning rate": ("train/learning_rate",),
}
ATTENTION = {
    "Right fact first, in training": ("train/retrieval_accuracy",),
    "Mass on no fact": ("train/null_share",),
    "Weight of what was read": ("train/gate",),
    "Temperature of attention over facts": ("train/temperature",),
}


def spec(group: str, project: str, entity: str | None) -> Row:
    """Return what the report on the runs of `group` shows: titles, and panels with names of metrics."""
    file = CONF / "sweep" / f"{group}.yaml"
    swept: Row = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    splits = swept.get("evaluate", {}).get("splits", list(SPLITS))
    exact = {split: f"evaluate.splits.{split}.em.mean" for split in splits}
    params = swept.get("hydra", {}).get("sweeper", {}).get("params", {})
    settings = [key for key in params if key != "method"]
    columns = [{"summary": METHOD}, *({"config": key} for key in settings)]
    columns += [{"summary": name} for name in (*exact.values(), "evaluate.seconds_per_question")]
    about = swept.get("hydra", {}).get("callbacks", {}).get("compared", {}).get("about", "")
    sections = [
        ("Exact match by split and method", [_bars(f"EM, {split}", [e]) for split, e in exact.items()]),
        ("Training", [_lines(title, names) for title, names in CURVES.items()]),
        ("Where attention goes", [_lines(title, names) for title, names in ATTENTION.items()]),
        ("Settings and what came of them", [{"kind": "parallel", "title": group, "columns": columns}]),
    ]
    return {
        "title": f"Runs of {group}",
        "description": about,
        "project": project,
        "entity": entity,
        "group": group,
        "sections": [{"title": title, "panels": panels} for title, panels in sections],
    }


def _lines(title: str, metrics: Sequence[str]) -> Row:
    return {"kind": "lines", "title": title, "x": STEP, "metrics": list(metrics)}


def _bars(title: str, metrics: Sequence[str]) -> Row:
    return {"kind": "bars", "title": title, "metrics": list(metrics)}


def built(told: Row) -> Any:
    """Return the report as an object of `wandb_workspaces`, not sent yet.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise UserError("--send needs the extra `report`: run `pip install -e '.[report]'`") from error

    def column(entry: Row) -> Any:
        [(kind, name)] = entry.items()
        metric = reports.Config(name) if kind == "config" else reports.SummaryMetric(name)
        return reports.ParallelCoordinatesPlotColumn(metric=metric, display_name=name)

    kinds: dict[str, Callable[[Row], Any]] = {
        "lines": lambda panel: reports.LinePlot(title=panel["title"], x=panel["x"], y=panel["metrics"]),
        "bars": lambda panel: reports.BarPlot(
            title=panel["title"], metrics=[reports.SummaryMetric(name) for name in panel["metrics"]]
        ),
        "parallel": lambda panel: reports.ParallelCoordinatesPlot(
            title=panel["title"], columns=[column(entry) for entry in panel["columns"]]
        ),
    }
    where = {"project": told["project"]} | ({"entity": told["entity"]} if told["entity"] else {})
    blocks: list[Any] = []
    for section in told["sections"]:
        runs = reports.Runset(name=told["group"], filters=f"Group = '{told['group']}'", **where)
        panels = [kinds[panel["kind"]](panel) for panel in section["panels"]]
        blocks += [reports.H2(text=section["title"]), reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(title=told["title"], description=told["description"], blocks=blocks, **where)


def main(arguments: Sequence[str]) -> None:
    """Write the JSON file and, if asked to, send the report.

    Raises:
        UserError: the extra is missing, or Weights & Biases refuses the report.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.reporting.wandb_report")
    parser.add_argument("group", help="group of the runs: the name of a sweep, or that of a folder")
    parser.add_argument("--project", default="living-memory")
    parser.add_argument("--entity", default=None, help="account or team; else the one that is logged in")
    parser.add_argument("--out", type=Path, default=Path("wandb_report.json"))
    parser.add_argument("--send", action="store_true", help="make the report at Weights & Biases")
    options = parser.parse_args(arguments)
    told = spec(options.group, options.project, options.entity)
    options.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.out} says what the report shows\n")
    if options.send:
        try:
            report = built(told)
            report.save()
        except UserError:
            raise
        except Exception as error:  # that is the class which the package raises without an account
            raise UserError(f"Weights & Biases refused the report ({error}); run `wandb login`") from error
        sys.stdout.write(f"The report: {report.url}\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
