"""Fills the marked blocks of README.md and of pages in docs/: `python -m pipeline.reporting.readme`.

A block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`: `dag` is drawn from dvc.yaml, `results`
comes from reports/metrics.json, `gpu` from the JSON files below reports/h100/, `grounding` from those in
reports/h100/grounding/, `variants` from those in reports/variants/, `figures` from those in reports/figures/,
`ledger` from reports/acceptance.json. The same files give the same text.
"""

import json
import re
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import ROOT, UserError
from pipeline.reporting.content import SPLITS
from pipeline.reporting.gather import Figures, read_json
from pipeline.reporting.paper import paper_figures
from pipeline.reporting.tables import MISSING, Cell, Table, best_marked, percent

PAGES = ("README.md", "docs/methods.md", "docs/evaluation.md")
"""Pages with blocks."""
METHODS = ("ours", "rag", "dysk", "majority", "closed_book")
"""The order of the columns; further methods follow by name."""


def filled(text: str, root: Path) -> str:
    """Return `text` with every marked block written anew from the files below `root`.

    Raises:
        UserError: a marker lacks its other end or has an unknown name, or a file is damaged.
    """
    marks: list[tuple[str, str]] = re.findall(r"<!-- (\w+):(begin|end) -->", text)
    pairs = list(zip(marks[::2], marks[1::2], strict=False))
    if len(marks) % 2 or any(first != (last[0], "begin") or last[1] != "end" for first, last in pairs):
        raise UserError("README.md: every <!-- NAME:begin --> needs its <!-- NAME:end --> after it")
    for (name, _), _ in pairs:
        if name not in BLOCKS:
            raise UserError(f"README.md: no block {name!r}; the blocks are {', '.join(BLOCKS)}")
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{BLOCKS[name](root)}\n{end}{rest.partition(end)[2]}"
    return text


def dag(root: Path) -> str:
    """Return the stages of dvc.yaml as a Mermaid graph, an arrow from each to those that read its output.

    An arrow that a way of several arrows implies is left out.
    """
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    writer = {path: name for name, stage in stages.items() for path in _expanded(stage, "outs")}
    lines = ["```mermaid", "graph LR"]
    for name, stage in stages.items():
        items = ", ".join(stage.get("matrix", {}).get("method", []))
        lines.append(f'  {name}["{name}{f"<br/>{items}" if items else ""}"]')
    above: dict[str, set[str]] = {}
    for name, stage in stages.items():  # dvc.yaml lists a stage after those that it reads from
        read = {writer[path] for path in _expanded(stage, "deps") if path in writer}
        implied = set().union(*(above[source] for source in read))
        above[name] = read | implied
        lines += [f"  {source} --> {name}" for source in stages if source in read - implied]
    return "\n".join([*lines, "```"])


def results(root: Path) -> str:
    """Return the exact match of each method on each split, as the last committed run measured it."""
    file = root / "reports" / "metrics.json"
    if not file.is_file():
        return "_Not measured yet: `make repro` writes reports/metrics.json._"
    return _exact_match(read_json(file)["evaluate"])


def gpu(root: Path) -> str:
    """Return one table of exact match for each measurement on a GPU."""
    shown = []
    for file in sorted((root / "reports" / "h100").rglob("*.json")):
        figures = read_json(file)
        if isinstance(figures.get("evaluate"), dict):
            name = file.relative_to(root / "reports" / "h100").with_suffix("").as_posix()
            shown.append(f"**{name.removesuffix('/metrics')}**\n\n{_exact_match(figures['evaluate'])}")
    return "\n\n".join(shown) or "_Not measured yet._"


def grounding(root: Path) -> str:
    """Return ACC@1 of each method in each wording over the number of facts, one table a data set."""
    shown = []
    for file in sorted((root / "reports" / "h100" / "grounding").glob("*.json")):
        accuracy = read_json(file)["figures"]["accuracy"]
        wordings = [found for of_method in accuracy.values() for found in of_method.values()]
        sizes = sorted({int(size) for found in wordings for size in found})
        rows = [
            [Cell(method), Cell(wording), *(percent(found.get(str(s), {}).get("acc1")) for s in sizes)]
            for method, of_method in accuracy.items()
            for wording, found in of_method.items()
        ]
        table = Table(["method", "wording", *(f"{size:,} facts" for size in sizes)], rows)
        shown.append(f"**{file.stem}**\n\n{table.markdown()}")
    return "\n\n".join(shown) or "_Not measured yet._"


def variants(root: Path) -> str:
    """Return what variants of a method do on the same questions, one table a measurement."""
    shown = []
    for file in sorted((root / "reports" / "variants").glob("*.json")):
        told = read_json(file)
        first = next(iter(told["figures"].values()))
        rows = []
        for entry, figures in told["figures"].items():
            for split, found in figures["splits"].items():
                means = [percent(found["em"]), percent(found["refused"])]
                read = Cell(f"{found['facts_read']['mean']:.2f}")
                rows.append([Cell(split), Cell(entry), *means, read, percent(found.get("em_beyond_first"))])
        rows.sort(key=lambda row: list(SPLITS).index(row[0].text))
        titles = ["split", "variant", "EM", "refused", "facts read", "EM beyond the first variant"]
        aurocs = {entry: figures["auroc"] for entry, figures in told["figures"].items() if figures["auroc"]}
        of = "; ".join(f"{entry} {auroc:.3f}" for entry, auroc in aurocs.items())
        about = f"{told['facts']:,} facts, {first['questions']:,} questions"
        ending = f"\n\nAUROC of refusals, `unseen` against `unanswerable`: {of}." if of else ""
        shown.append(f"**{file.stem}** ({about})\n\n{Table(titles, rows).markdown()}{ending}")
    return "\n\n".join(shown) or "_Not measured yet._"


def figures(root: Path) -> str:
    """Return the tables of the paper's figures that were measured; nothing where none was."""
    shown = []
    for drawn in paper_figures(root / "reports" / "figures"):
        source = f"[{drawn.name}.json](../reports/figures/{drawn.name}.json)"
        tables = [table.markdown() for table in drawn.tables]
        shown.append(
            "\n\n".join([f"**{drawn.title}** {' '.join(drawn.notes)} ({source}: {drawn.made}.)", *tables])
        )
    return "\n\n".join(shown)


def ledger(root: Path) -> str:
    """Return how many lines of each issue hold, and which don't, with the reason."""
    file = root / "reports" / "acceptance.json"
    try:
        rows: list[Figures] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: can't be read ({error}); restore it from the repository") from error
    if not rows:
        return "_Nothing is in the ledger yet._"
    lines = []
    for issue in sorted({row["issue"] for row in rows}):
        of_issue = [row for row in rows if row["issue"] == issue]
        short = [row for row in of_issue if not row["holds"]]
        lines.append(f"- {issue}: {len(of_issue) - len(short)} of {len(of_issue)} figures hold.")
        measured = [row for row in short if row["figure"]["value"] is not None]
        for line, rows_of in groupby(measured, key=lambda row: row["line"]):
            told = [
                f"{row['target']}; measured {row['figure']['value']:.4g}. {row.get('reason', 'no reason')}"
                for row in rows_of
            ]
            lines.append(f"  - Open, line {line}: {'. '.join(told)}")
        unknown = [row for row in short if row["figure"]["value"] is None]
        if unknown:
            named = (f"line {row['line']}, {row['target']} ({row['reason']})" for row in unknown)
            lines.append(f"  - Open, not measured: {'; '.join(named)}.")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "dag": dag,
    "results": results,
    "gpu": gpu,
    "grounding": grounding,
    "variants": variants,
    "figures": figures,
    "ledger": ledger,
}


def _exact_match(evaluated: Figures) -> str:
    methods = [name for name in METHODS if name in evaluated] + sorted(evaluated.keys() - set(METHODS))
    rows = []
    for split in SPLITS:
        found = [evaluated[name].get(split) for name in methods]
        cells = [_em(figures) for figures in found]
        if any(cell is not MISSING for cell in cells):
            counts = sorted({figures["n"] for figures in found if figures})
            count = Cell("–".join(f"{n:,}" for n in counts))
            rows.append([Cell(split), Cell(SPLITS[split]), count, *best_marked(cells)])
    return Table(["split", "what it asks", "n", *methods], rows).markdown()


def _em(figures: Figures | None) -> Cell:
    if not figures or "em" not in figures:
        return MISSING
    return percent({"mean": figures["em"], "low": figures["em_low"], "high": figures["em_high"]})


def _expanded(stage: dict[str, Any], kind: str) -> set[str]:
    paths = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in stage[kind]]
    items = stage.get("matrix", {}).get("method", [""])
    return {path.replace("${item.method}", item) for path in paths for item in items}


def main() -> None:
    """Write the pages anew and say which changed."""
    for page in PAGES:
        file = ROOT / page
        before = file.read_text(encoding="utf-8")
        try:
            after = filled(before, ROOT)
        except UserError as error:
            sys.exit(f"error: {error}")
        file.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{page}: {'unchanged' if before == after else 'written anew'}\n")


if __name__ == "__main__":
    main()
