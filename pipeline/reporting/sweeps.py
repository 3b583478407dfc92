"""What the jobs of a sweep found, side by side: a table, a figure and a sentence.

A file of conf/sweep names `Compared` as Hydra's callback, so that `python -m pipeline.trial sweep=k` ends by
writing k.json and k.png; `python -m pipeline.reporting.sweeps multirun/k` does so again, also for jobs that
were started one by one (`pipeline.benchmarks.plan`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import yaml
from hydra.experimental.callback import Callback
from matplotlib.figure import Figure
from omegaconf import DictConfig

from pipeline.config import CONF, UserError
from pipeline.evaluation.intervals import paired
from pipeline.evaluation.summary import per_question
from pipeline.reporting.figures import STYLE, style_of

REPORTS = Path("reports/sweeps")
TRIAL = "trial.json"
KEPT = ("em", "f1", "acc@1", "acc@5", "refused", "n")
"""Figures of a split that are told."""
SAMPLES = 10_000

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What one job was told to do, and what it found."""

    folder: Path
    overrides: dict[str, str]
    told: Row
    """The whole of trial.json."""

    @property
    def splits(self) -> Mapping[str, Row]:
        """The figures of each split that was asked."""
        found: Mapping[str, Row] = self.told["metrics"]["splits"]
        return found

    def results(self, split: str) -> pd.Series:
        """Return EM of each question of a split."""
        rows = pd.read_parquet(self.folder / "answers.parquet", columns=["question", "split", "em"])
        return per_question(rows[rows["split"] == split], ["em"])["em"]


class Compared(Callback):  # type: ignore[misc]  # Hydra is not typed
    """Compares the jobs of a multirun when the last of them has ended.

    Args:
        about: what the sweep asks, in a sentence.
        over: the key along the figure; every other key that differs makes a line.
    """

    def __init__(self, about: str, over: str) -> None:
        self.about, self.over = about, over

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Forget jobs of a sweep before this one, whose values may have been others."""
        for file in Path(config.hydra.sweep.dir).glob(f"*/{TRIAL}"):
            file.unlink()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the table and the figure; say where they are."""
        folder = Path(config.hydra.sweep.dir)
        (folder / "about.json").write_text(
            json.dumps({"about": self.about, "over": self.over}) + "\n", encoding="utf-8"
        )
        try:
            told = compared(folder, REPORTS)
        except UserError as error:
            sys.exit(f"error: {error}")
        sys.stdout.write("\n".join([*told["says"], f"{REPORTS / folder.name}.json and .png hold all\n"]))


def compared(folder: Path, reports: Path) -> Row:
    """Write the table and the figure of the jobs in `folder` to `reports`, and return the table.

    Raises:
        UserError: no job of the folder has ended, or its values don't differ.
    """
    jobs = ended(folder)
    told = about(folder)
    over, lines = told["over"], sorted(differing(jobs) - {told["over"]})
    if over not in differing(jobs):
        raise UserError(f"{folder}: all jobs have the same {over}; sweep over several values of it")
    first = jobs[0].told
    table: Row = {"about": told["about"], "over": over, "lines": lines}
    table |= {name: first[name] for name in ("commit", "versions", "machine", "seeds")}
    table["command"] = f"python -m pipeline.trial sweep={folder.name}"
    table["jobs"] = [
        {
            "command": job.told["command"],
            "values": {key: job.overrides.get(key, "") for key in (over, *lines)},
            "splits": {
                split: {name: found[name] for name in KEPT if found.get(name) is not None}
                for split, found in job.splits.items()
            },
            "refusal_auroc": job.told["metrics"]["refusal_auroc"],
            "seconds_per_question": job.told["metrics"]["seconds_per_question"],
        }
        for job in jobs
    ]
    table["says"] = said(jobs, over, lines)
    reports.mkdir(parents=True, exist_ok=True)
    text = json.dumps(table, indent=1, ensure_ascii=False)
    (reports / f"{folder.name}.json").write_text(text + "\n", encoding="utf-8")
    drawn(table).savefig(reports / f"{folder.name}.png", dpi=150)
    return table


def about(folder: Path) -> dict[str, str]:
    """Return what the sweep in `folder` asks and the key along its figure, as its file of conf/sweep says.

    Raises:
        UserError: a callback of the sweep didn't write it down, and there is no file of the folder's name.
    """
    written, file = folder / "about.json", CONF / "sweep" / f"{folder.name}.yaml"
    if written.is_file():
        held: dict[str, str] = json.loads(written.read_text(encoding="utf-8"))
        return held
    if not file.is_file():
        raise UserError(f"{folder}: has no about.json, and conf/sweep no {folder.name}.yaml")
    told = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["callbacks"]["compared"]
    return {key: told[key] for key in ("about", "over")}


def ended(folder: Path) -> list[Job]:
    """Return the jobs of a sweep in the order in which they were listed.

    Raises:
        UserError: there is none.
    """
    jobs = []
    for file in folder.glob(f"*/{TRIAL}"):
        told = json.loads(file.read_text(encoding="utf-8"))
        jobs.append((file.stat().st_mtime_ns, Job(file.parent, told["overrides"], told)))
    if not jobs:
        raise UserError(f"{folder}: holds no job that ended; run `python -m pipeline.trial sweep=NAME` first")
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def differing(jobs: Sequence[Job]) -> set[str]:
    """Return the keys whose value is not the same in all jobs."""
    keys = {key for job in jobs for key in job.overrides}
    return {key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1}


def name_of(values: Mapping[str, str], lines: Sequence[str]) -> str:
    """Return what a line of the figure is called."""
    return ", ".join(
        values.get(key, "") if key == "method" else f"{key}={values.get(key, '')}" for key in lines
    )


def said(jobs: Sequence[Job], over: str, lines: Sequence[str]) -> list[str]:
    """Return, for each line and split, how its best value differs from its worst, question by question."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(name_of(job.overrides, lines), []).append(job)
    told = []
    for name, group in groups.items():
        for split in group[0].splits:
            held = [job for job in group if split in job.splits]
            ranked = sorted(held, key=lambda job: job.splits[split]["em"]["mean"])
            worst, best = ranked[0], ranked[-1]
            if len(held) < 2:
                continue
            a, b = (job.results(split) for job in (best, worst))
            both = a.index.intersection(b.index)
            gap = paired(a[both].to_numpy(float), b[both].to_numpy(float), SAMPLES, 0).difference
            most, least = (
                f"{100 * x.mean():.1f} % at {j.overrides[over]}" for j, x in ((best, a), (worst, b))
            )
            told.append(
                f"{split}{f', {name}' if name else ''}: over {over}, EM is {least} to {most}; "
                f"the largest difference of {len(held)} values is {100 * gap.mean:.1f} [{100 * gap.low:.1f}, "
                f"{100 * gap.high:.1f}] points over {len(both)} questions"
            )
    return told


def drawn(table: Row) -> Figure:
    """Return EM over the values of the swept key, a panel a split."""
    over, lines = table["over"], table["lines"]
    values = sorted(dict.fromkeys(job["values"][over] for job in table["jobs"]), key=_size)
    splits = list(dict.fromkeys(split for job in table["jobs"] for split in job["splits"]))
    names = list(dict.fromkeys(name_of(job["values"], lines) for job in table["jobs"]))
    styles = style_of(names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(splits), 3.4), layout="constrained")
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for panel, split in zip(panels, splits, strict=True):
            for name in names:
                found = {
                    values.index(job["values"][over]): job["splits"][split]["em"]
                    for job in table["jobs"]
                    if name_of(job["values"], lines) == name and split in job["splits"]
                }
                x = np.array(sorted(found))
                mean, low, high = (
                    100 * np.array([found[place][key] for place in x]) for key in ("mean", "low", "high")
                )
                colour, marker = styles[name]
                panel.errorbar(
                    x,
                    mean,
                    [mean - low, high - mean],
                    color=colour,
                    marker=marker,
                    capsize=3,
                    label=name or None,
                )
            panel.set(title=split, xlabel=over, xticks=range(len(values)))
            panel.set_xticklabels([f"{_size(value):.3g}" if _size(value) else value for value in values])
        panels[0].set_ylabel("EM, percent")
        if any(names):
            panels[-1].legend()
    return figure


def _size(value: str) -> float:
    """Return the number that a value is; 0 where it is none, so that such values stay in their order."""
    try:
        return float(value)
    except ValueError:
        return 0.0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(
            "error: name the folder of one sweep, as in `python -m pipeline.reporting.sweeps multirun/k`, "
            f"and where its table goes, if not to {REPORTS}"
        )
    try:
        reports = Path(sys.argv[2]) if len(sys.argv) == 3 else REPORTS
        sys.stdout.write("\n".join([*compared(Path(sys.argv[1]), reports)["says"], ""]))
    except UserError as error:
        sys.exit(f"error: {error}")
