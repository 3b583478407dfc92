"""The report's plots, each drawn once and kept as PNG and as an SVG that follows the page's colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.evaluation.splits import AFTER

INK, LINES = "#1b1f24", "#d4d8dd"
COLOURS = ("#1f77d0", "#e07b1a", "#2a9d63", "#c2468f", "#8a6fd1", "#b39700", "#1aa5b8", "#8d949c")
MARKERS = "osD^vPX*"

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINES,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def style_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each name: the same in every plot of a report."""
    return {
        name: (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(names)
    }


def accuracy(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Plot EM of each method on each split with its interval.

    Args:
        table: columns method, split, em, em_low, em_high (shares) and n; splits in the order shown.
        methods: the order of methods; a method keeps its place and colour in every plot.
    """
    with matplotlib.rc_context(STYLE):
        splits = list(table["split"].unique())
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots()
        for offset, (method, (colour, marker)) in zip(
            _offsets(len(methods)), style_of(methods).items(), strict=True
        ):
            rows = table[table["method"] == method].set_index("split").reindex(splits)
            places = [place + offset for place in range(len(splits))]
            low, high = rows["em"] - rows["em_low"], rows["em_high"] - rows["em"]
            axes.errorbar(
                places,
                100 * rows["em"],
                yerr=[100 * low.clip(lower=0), 100 * high.clip(lower=0)],
                fmt=marker,
                color=colour,
                label=method,
                markersize=6,
                elinewidth=2,
                capsize=3,
            )
        _name_splits(axes, splits, table.groupby("split")["n"].max())
        axes.set_ylim(-3, 103)
        axes.set_ylabel("Exact match, %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=8)
    return figure


def recall(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Plot recall@N against N, one panel a split.

    Args:
        table: columns method, split, n (the depth N) and recall (a share); splits in the order shown.
        methods: the order of methods, as in `accuracy`.
    """
    with matplotlib.rc_context(STYLE):
        splits = list(table["split"].unique())
        columns = min(4, len(splits))
        rows = -(-len(splits) // columns)
        figure = Figure(figsize=(10, 0.7 + 2.3 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        depths = sorted(table["n"].unique())
        lowest = 100 * float(table["recall"].min())
        styles = style_of(methods)
        for axes, split in zip(panels, splits, strict=False):
            of_split = table[table["split"] == split]
            for method, (colour, marker) in styles.items():
                line = of_split[of_split["method"] == method]
                if len(line):
                    shares = 100 * line["recall"]
                    axes.plot(line["n"], shares, marker + "-", color=colour, label=method, markersize=4)
            axes.set(title=split.replace("_", " "), xscale="log")
            axes.set_xticks(depths, [str(depth) for depth in depths], fontsize=8)
            axes.minorticks_off()
            axes.set_ylim(max(-2, lowest - 5), 101)
        for axes in panels[len(splits) :]:
            axes.set_visible(False)
        figure.supxlabel("candidates N", fontsize=10)
        figure.supylabel("recall@N, %", fontsize=10)
        _legend(figure)
    return figure


def training(curves: dict[str, pd.DataFrame], methods: Sequence[str]) -> Figure:
    """Plot every column of the training curves against the step, one panel a column.

    Where a curve has many points, the line is their running mean and the points stand behind it, faint.

    Args:
        curves: one table a method, with a column `step`; columns may differ and may have gaps.
        methods: the order of methods, as in `accuracy`; methods without a curve are left out.
    """
    with matplotlib.rc_context(STYLE):
        logged = dict.fromkeys(name for curve in curves.values() for name in curve.columns)
        names = [name for name in logged if name not in ("step", "epoch")]
        columns = min(3, len(names))
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(10, 0.5 + 2.2 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        last = max(int(curve["step"].max()) for curve in curves.values())
        styles = style_of([*methods, *(name for name in curves if name not in methods)])
        for axes, name in zip(panels, names, strict=False):
            for method, (colour, _) in styles.items():
                if method in curves and name in curves[method]:
                    _curve(axes, curves[method][["step", name]].dropna(), colour, method)
            axes.set(title=name.replace("_", " "))
            axes.set_xlim(-0.02 * last, 1.02 * last)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel("step", fontsize=10)
        _legend(figure)
    return figure


@dataclass(frozen=True)
class Point:
    """A mean at x with its interval; without one, the bounds are the mean."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One set of axes: lines by name."""

    title: str
    series: Mapping[str, Sequence[Point]]
    x: str
    y: str
    log: str = ""
    """Which axes are logarithmic: "", "x" or "xy"."""
    ticks: Mapping[float, str] = field(default_factory=dict)
    """Names of values of x, where they are no numbers; points are not joined then."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Horizontal lines, each in the colour of the series of its name."""


def panels(shown: Sequence[Panel]) -> Figure:
    """Plot panels side by side; a series has the same colour in all of them."""
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(10, 0.6 + 3.0 * rows), layout="constrained")
        every = list(figure.subplots(rows, columns, squeeze=False).flat)
        styles = style_of(list(dict.fromkeys(name for panel in shown for name in panel.series)))
        for axes, panel in zip(every, shown, strict=False):
            axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            for name, points in panel.series.items():
                _points(axes, panel, points, name, *styles[name])
            for name, level in panel.levels.items():
                axes.axhline(level, color=styles[name][0], linewidth=1, linestyle=(0, (4, 3)))
            if panel.ticks:
                axes.set_xticks(list(panel.ticks), list(panel.ticks.values()))
            if panel.log:
                axes.set_xscale("log")
                every_x = sorted({point.x for points in panel.series.values() for point in points})
                if len(every_x) <= 8:
                    axes.set_xticks(every_x, [f"{x:,g}" for x in every_x], fontsize=8)
                    axes.xaxis.set_minor_locator(NullLocator())
            if panel.log == "xy":
                axes.set_yscale("log")
        for axes in every[len(shown) :]:
            axes.set_visible(False)
        _legend(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure on white; the same figure gives the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})


def _offsets(count: int) -> list[float]:
    step = min(0.16, 0.7 / count)
    return [(place - (count - 1) / 2) * step for place in range(count)]


def _name_splits(axes: Axes, splits: Sequence[str], counts: "pd.Series[int]") -> None:
    labels = [f"{split.replace('_', ' ')}\nn = {counts[split]}" for split in splits]
    axes.set_xticks(range(len(splits)), labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.5, len(splits) - 0.5)
    later = [place for place, split in enumerate(splits) if split in AFTER]
    if later and later[0] > 0:
        axes.axvline(later[0] - 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for text, side, shift in (("base snapshot", "right", -6), ("after the update", "left", 6)):
            axes.annotate(
                text,
                (later[0] - 0.5, 1.0),
                (shift, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=9,
            )


def _points(axes: Axes, panel: Panel, points: Sequence[Point], name: str, colour: str, marker: str) -> None:
    place = list(panel.series).index(name)
    shift = _offsets(len(panel.series))[place] if panel.ticks else 0.0
    many = len(points) > 30
    axes.errorbar(
        [point.x + shift for point in points],
        [point.mean for point in points],
        yerr=[[max(0.0, p.mean - p.low) for p in points], [max(0.0, p.high - p.mean) for p in points]],
        fmt=("" if many else marker) + ("" if panel.ticks else "-"),
        color=colour,
        label=name,
        markersize=5,
        linewidth=1.6,
        elinewidth=0 if many else 1.5,
        capsize=0 if many else 2,
    )


def _curve(axes: Axes, points: pd.DataFrame, colour: str, label: str) -> None:
    steps, values = points.iloc[:, 0], points.iloc[:, 1]
    if len(points) > 60:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        values = values.rolling(len(points) // 30, min_periods=1, center=True).mean()
    axes.plot(steps, values, color=colour, label=label, linewidth=1.6)


def _legend(figure: Figure) -> None:
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=8)
