"""AtlasKV's figures for our methods, from the JSON files in reports/figures/: tables and plots.

A file has the name of its benchmark, perhaps with one of its own behind it: `footprint-cpu.json`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.config import UserError
from pipeline.reporting.figures import Panel, Point, panels
from pipeline.reporting.gather import Figures, made, read_json
from pipeline.reporting.tables import MISSING, Cell, Table, number, percent

MIB = 1 << 20


@dataclass(frozen=True)
class Drawn:
    """One measurement, ready to be shown."""

    name: str
    """Of the file."""
    title: str
    notes: list[str]
    """Sentences beside the tables."""
    made: str
    """The command, the commit and the machine."""
    tables: list[Table]
    plot: Figure


Content = tuple[str, list[str], list[Table], list[Panel]]


def paper_figures(folder: Path) -> list[Drawn]:
    """Return what the files of `folder` hold, in the paper's order; nothing where there is no file.

    Raises:
        UserError: a file is damaged, or its name is no benchmark's.
    """
    files = {file: file.stem.partition("-")[0] for file in sorted(folder.glob("*.json"))}
    odd = [file for file, kind in files.items() if kind not in KINDS]
    if odd:
        raise UserError(f"{odd[0]}: its name must begin with one of {', '.join(KINDS)}; rename or move it")
    order = list(KINDS)
    return [
        _drawn(file, files[file]) for file in sorted(files, key=lambda f: (order.index(files[f]), f.stem))
    ]


def _drawn(file: Path, kind: str) -> Drawn:
    told = read_json(file)
    try:
        title, notes, tables, shown = KINDS[kind](told)
        how = made(told)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not what `{kind}` writes ({error!r}); measure it again") from error
    return Drawn(file.stem, title, notes, how, tables, panels(shown))


def unmade(shown: Sequence[Drawn]) -> list[str]:
    """Return the names of the benchmarks of the paper's figures of which no file was there."""
    return [kind for kind in KINDS if kind not in {drawn.name.partition("-")[0] for drawn in shown}]


def footprint(told: Figures) -> Content:
    """Memory and time over the number of facts."""
    rows = told["figures"]
    entries, sizes = _distinct(rows, "entry"), sorted(_distinct(rows, "facts"))
    by = {(row["entry"], row["facts"]): row for row in rows}
    table = [[Cell(entry), *(_taken(by.get((entry, size))) for size in sizes)] for entry in entries]
    done = [row for row in rows if not row["reason"]]
    memory = {e: [_plain(r["facts"], r["peak"] / MIB) for r in done if r["entry"] == e] for e in entries}
    time = {e: [_point(r["facts"], r["seconds"], 1000) for r in done if r["entry"] == e] for e in entries}
    notes = [
        f"MiB at most while answering {told['settings']['questions']} questions, beyond the language model's "
        f"{max((row.get('lm') or 0) for row in rows) / MIB:,.0f}, and milliseconds a question "
        f"({told['measured']})."
    ]
    for entry in entries:
        first = next((row for row in rows if row["entry"] == entry and row["reason"]), None)
        if first:
            reason = first["reason"].removeprefix(f"{entry}: ").rstrip(".")
            notes.append(f"{entry} was not possible with {first['facts']:,} facts: {reason}.")
    shown = [
        Panel("memory beyond the language model", _filled(memory), "facts", "MiB", "xy"),
        Panel("time of a question", _filled(time), "facts", "ms", "xy"),
    ]
    header = ["method", *(f"{size:,} facts" for size in sizes)]
    return "Footprint (figure 4)", notes, [Table(header, table)], shown


def _taken(row: Figures | None) -> Cell:
    if row is None:
        return MISSING
    if row["reason"]:
        return Cell("not possible")
    taken = row["peak"] / MIB
    return Cell(f"{taken:,.0f}", f"{1000 * row['seconds']['mean']:,.1f} ms", taken)


def relevance(told: Figures) -> Content:
    """BERTScore by split and method."""
    names = {"precision": "precision", "recall": "recall", "f1": "F1"}
    splits = list(dict.fromkeys(split for found in told["figures"].values() for split in found))
    rows, shown = [], []
    for split in splits:
        of_split = {m: found[split] for m, found in told["figures"].items() if split in found}
        for method, found in of_split.items():
            judge = found.get("judge") or {}
            cells = [percent(found[name]) for name in (*names, "em")]
            rows.append([Cell(split), Cell(method), *cells, percent(judge.get("score")), _unread(judge)])
        series = {
            method: [_point(x, found[name], 100) for x, name in enumerate(names)]
            for method, found in of_split.items()
        }
        ticks = {float(x): text for x, text in enumerate(names.values())}
        shown.append(Panel(split.replace("_", " "), series, "BERTScore", "%", ticks=ticks))
    titles = [
        "split",
        "method",
        *(f"BERTScore {text}" for text in names.values()),
        "EM",
        "judge",
        "unparsable",
    ]
    judge = f", and the judge {told['judge']}" if told["judge"] else ""
    notes = [f"In percent, by the token states of {told['encoder']}, without idf or rescaling{judge}."]
    return "Relevance (figure 5)", notes, [Table(titles, rows)], shown


def _unread(judge: Figures) -> Cell:
    return Cell(f"{judge['unparsable']} of {judge['asked']}") if judge else MISSING


def pruning(told: Figures) -> Content:
    """ACC and EM over each of HiKVP's three numbers."""
    axes = {"roots": "k_R", "inner": "k_I", "leaves": "k_L"}
    metrics = {"acc1": "ACC@1", "acc5": "ACC@5", "em": "EM"}
    rows = told["figures"]
    entries = _distinct(rows, "entry")
    flat = {row["entry"]: row for row in rows if row["axis"] == "flat"}
    tables, shown = [], []
    for axis, title in axes.items():
        mine = [row for row in rows if row["axis"] == axis]
        by = {(row["entry"], row["kept"]): row for row in mine}
        kept = sorted(_distinct(mine, "kept"))
        found = [
            [Cell(e), Cell(text), *(_share(by.get((e, n)), name) for n in kept), _share(flat.get(e), name)]
            for e in entries
            for name, text in metrics.items()
        ]
        tables.append(Table(["method", "figure", *(f"{title} = {n:,}" for n in kept), "flat"], found))
        series = {e: [_point(r["kept"], r["acc1"], 100) for r in mine if r["entry"] == e] for e in entries}
        levels = {entry: 100 * row["acc1"]["mean"] for entry, row in flat.items() if series[entry]}
        shown.append(Panel(title, _filled(series), "kept", "ACC@1, %", "x", levels=levels))
    others = ", ".join(f"{axes[name]} = {number}" for name, number in told["others"].items())
    roots = "; ".join(
        f"{entry} has {found[0]:,} roots"
        for entry in entries
        if (found := [row["roots"] for row in rows if row["entry"] == entry and row["roots"]])
    )
    notes = [
        f"In percent, over {told['facts']:,} facts; the others are {others}. A k_R of all roots or "
        f"more prunes nothing: {roots}. Broken lines: without pruning."
    ]
    return "Pruning (figure 6)", notes, tables, shown


def _share(row: Figures | None, name: str) -> Cell:
    return MISSING if row is None else percent(row[name])


def pairing(told: Figures) -> Content:
    """Training loss with right and with permuted pairs."""
    rows, shown = [], []
    for encoder, found in told["figures"].items():
        for kind, one in found.items():
            seeds = " · ".join(f"{loss:.3f}" for loss in one["last_by_seed"])
            rows.append([Cell(encoder), Cell(kind), _loss(one["last"]), Cell(seeds)])
        series = {
            kind: [_plain(x, y) for x, y in zip(one["curve"]["step"], one["curve"]["loss"], strict=True)]
            for kind, one in found.items()
        }
        shown.append(Panel(encoder, series, "step", "training loss, nats a token"))
    notes = [
        "Loss over the last tenth of the steps, with an interval over those steps' batches: nats a token. "
        "`memory`: values permuted in the memory; `both`: answers permuted with them."
    ]
    table = Table(["encoder", "pairs", "loss", "of each seed"], rows)
    return "Pairing (figure 7)", notes, [table], shown


def _loss(figure: Figures) -> Cell:
    return Cell(f"{figure['mean']:.3f}", f"[{figure['low']:.3f}, {figure['high']:.3f}]", figure["mean"])


def ablation(told: Figures) -> Content:
    """ACC after training on some kinds of values."""
    found = told["figures"]
    wordings = list(dict.fromkeys(w for of in found["accuracy"].values() for w in of))
    sizes = sorted({int(s) for of in found["accuracy"].values() for w in of.values() for s in w})
    rows, shown = [], []
    for wording in wordings:
        series = {}
        for kind in found["rows"]:
            at = found["accuracy"][kind][wording]
            cells = [percent(at[str(size)][name]) for size in sizes for name in ("acc1", "acc5")]
            rows.append(
                [Cell(wording), Cell(kind), number(found["rows"][kind]), _loss(found["loss"][kind]), *cells]
            )
            series[kind] = [_point(size, at[str(size)]["acc1"], 100) for size in sizes]
        shown.append(Panel(wording.replace("_", " "), series, "facts", "ACC@1, %", "x"))
    titles = ["wording", "trained on", "rows", "loss at the end"]
    titles += [f"{name}, {size:,} facts" for size in sizes for name in ("ACC@1", "ACC@5")]
    notes = ["ACC in percent on entities never trained on. Losses don't compare: rows differ in length."]
    return "Ablation (table 4)", notes, [Table(titles, rows)], shown


KINDS: dict[str, Callable[[Figures], Content]] = {
    "footprint": footprint,
    "relevance": relevance,
    "pruning": pruning,
    "pairing": pairing,
    "ablation": ablation,
}


def _distinct(rows: Iterable[Figures], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _filled(series: dict[str, list[Point]]) -> dict[str, list[Point]]:
    return {name: points for name, points in series.items() if points}


def _point(x: float, figure: Figures, times: float) -> Point:
    return Point(x, *(times * figure[name] for name in ("mean", "low", "high")))


def _plain(x: float, mean: float) -> Point:
    return Point(x, mean, mean, mean)
