"""Tables of what commands outside the DAG measured, each described in `pipeline.reporting.sections`.

A description says which files it is about, where in them the rows stand, and what the columns show; nothing
else is written for a section. What a file holds besides stays in the file, which is named below its table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import UserError
from pipeline.reporting.gather import made, read_json
from pipeline.reporting.ledger import figure_at
from pipeline.reporting.tables import MISSING, Cell, Table


@dataclass(frozen=True)
class Column:
    """One column of a section's table."""

    title: str
    path: str
    """Where its value stands in a row: "splits.em"; "{entry}" is the key that `Section.rows` calls so; each
    "../" goes one step out; "" is the row itself."""
    shown: Callable[[Any], Cell]
    """How a value that is there is written."""
    best: Callable[[Sequence[float]], float] | None = None
    """`max` or `min`, where one of several rows is to stand out."""


@dataclass(frozen=True)
class Section:
    """What the report says of one measurement."""

    name: str
    """Of the section in the page, and of the files: NAME.json, NAME/*.json, and the same in h100/."""
    title: str
    says: str
    """A sentence or two: what was asked, and in which unit the figures are."""
    rows: str
    """Path to the rows: "figures.{entry}.*" goes over the keys of `figures`, then over a list's items."""
    columns: tuple[Column, ...]
    command: str = ""
    """What makes a file, where it is not the benchmark NAME."""
    files: tuple[str, ...] = ()
    """Further files below the folder of reports, as globs."""
    within: tuple[str, ...] = ()
    """Titles of columns; among rows of one file that agree in them, the best is marked."""

    @property
    def made_by(self) -> str:
        """The command that writes such a file."""
        return self.command or f"python -m pipeline.benchmark {self.name} hydra.run.dir=reports"

    @property
    def place(self) -> str:
        """Where the command's file belongs, below the folder of reports."""
        return (*self.files, f"{self.name}.json")[0]

    @property
    def globs(self) -> tuple[str, ...]:
        """Where such a file may lie below the folder of reports."""
        own = (f"{self.name}.json", f"{self.name}/*.json")
        return (*own, *(f"h100/{glob}" for glob in own), *self.files)


@dataclass(frozen=True)
class Source:
    """A file that was shown."""

    path: str
    """Relative to the folder of reports."""
    made: str
    """The command, the commit and the machine."""
    says: list[str] = field(default_factory=list)
    """Sentences that the file itself brings."""
    picture: Path | None = None
    """The figure beside it."""


@dataclass(frozen=True)
class Measured:
    """A section and what there is for it; without sources nothing was measured yet."""

    section: Section
    table: Table
    sources: list[Source]


def measured(sections: Sequence[Section], reports: Path) -> list[Measured]:
    """Return every section with what the files below `reports` hold for it.

    Raises:
        UserError: a file is damaged, does not say how it was made, or has no row that the section shows.
    """
    return [_gathered(section, reports) for section in sections]


def _gathered(section: Section, reports: Path) -> Measured:
    files = sorted({file for glob in section.globs for file in reports.glob(glob)})
    files = [file for file in files if file.name != "provenance.json"]
    rows: list[list[Cell]] = []
    sources = []
    for file in files:
        told = read_json(file)
        beside = file.with_name("provenance.json")
        about = told | read_json(beside) if beside.is_file() else told
        found = [_cells(section, scopes, keys) for scopes, keys in _walked(told, section.rows.split("."))]
        held = [cells for cells in found if cells]
        if told.get(section.rows.partition(".")[0]) == {}:
            continue  # of several sections that show one file, not each has something in it
        if not held or "command" not in about or "commit" not in about:
            raise UserError(f"{file}: is not what `{section.made_by}` writes; measure it again or move it")
        name = file.relative_to(reports).as_posix()
        short = name.removeprefix(f"{section.name}/").removesuffix(".json").removesuffix("/metrics")
        rows += [[Cell(short), *cells] for cells in _marked(section, held)]
        picture = file.with_suffix(".png")
        says = [str(text) for text in told.get("says", [])]
        sources.append(Source(name, made(about), says, picture if picture.is_file() else None))
    several = len(sources) > 1
    table = Table(
        [*(["file"] if several else []), *(column.title for column in section.columns)],
        rows if several else [row[1:] for row in rows],
    )
    return Measured(section, _narrowed(table), sources)


def _walked(
    value: Any, steps: Sequence[str], outer: tuple[Any, ...] = (), keys: Mapping[str, str] | None = None
) -> Iterator[tuple[tuple[Any, ...], Mapping[str, str]]]:
    """Yield each row with what stands around it, innermost first, and the keys that led to it."""
    keys, around = keys or {}, (value, *outer)
    if not steps:
        if isinstance(value, dict):
            yield around, keys
        return
    step, rest = steps[0], steps[1:]
    if step == "*":
        for inner in value if isinstance(value, list) else []:
            yield from _walked(inner, rest, around, keys)
    elif step.startswith("{"):
        for key, inner in value.items() if isinstance(value, dict) else []:
            yield from _walked(inner, rest, around, {**keys, step: key})
    elif isinstance(value, dict) and step in value:
        yield from _walked(value[step], rest, around, keys)


def _cells(section: Section, scopes: tuple[Any, ...], keys: Mapping[str, str]) -> list[Cell]:
    """Return a row of the table; nothing where the row holds none of the figures itself."""
    cells, own = [], 0
    for column in section.columns:
        value = keys.get(column.path) if column.path.startswith("{") else _at(scopes, column.path)
        cells.append(MISSING if value is None else column.shown(value))
        own += cells[-1] is not MISSING and not column.path.startswith(("{", "../"))
    return cells if own else []


def _at(scopes: tuple[Any, ...], path: str) -> Any:
    out = path.count("../")
    try:
        return figure_at(scopes[out], path.removeprefix("../" * out))
    except (KeyError, IndexError):
        return None


def _marked(section: Section, rows: list[list[Cell]]) -> list[list[Cell]]:
    """Return the rows of one file with the best of each column marked among those that are comparable."""
    titles = [column.title for column in section.columns]
    alike: dict[tuple[str, ...], list[list[Cell]]] = {}
    for row in rows:
        alike.setdefault(tuple(row[titles.index(title)].text for title in section.within), []).append(row)
    for group in alike.values():
        for place, column in enumerate(section.columns):
            values = [row[place].value for row in group]
            known = [value for value in values if value is not None]
            if column.best and len(set(known)) > 1:
                for row in group:
                    best = row[place].value == column.best(known)
                    row[place] = replace(row[place], best=best)
    return rows


def _narrowed(table: Table) -> Table:
    """Return the table without columns in which nothing stands."""
    kept = [
        place
        for place in range(len(table.header))
        if not table.rows or any(row[place] is not MISSING for row in table.rows)
    ]
    return Table([table.header[p] for p in kept], [[row[p] for p in kept] for row in table.rows])
