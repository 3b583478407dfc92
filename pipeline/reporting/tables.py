"""A table once, written as HTML, Markdown or plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Cell:
    """What a cell shows: a text, a smaller note beside it, and what it sorts by where that is a number."""

    text: str
    note: str = ""
    value: float | None = None

    def plain(self) -> str:
        """Return text and note in one line."""
        return f"{self.text} {self.note}".strip()


MISSING = Cell("—")


@dataclass(frozen=True)
class Table:
    """A header and rows of cells; every row is as long as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    """A smaller line below each header cell."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells under {len(self.header)} headers")

    def html(self) -> str:
        """Return a sortable table; every text in it is escaped."""
        notes = [*self.notes, *[""] * (len(self.header) - len(self.notes))]
        head = "".join(
            f'<th scope="col"><button type="button">{escape(name)}</button>{_small(note)}</th>'
            for name, note in zip(self.header, notes, strict=True)
        )
        body = "\n".join(f"<tr>{''.join(map(_data, row))}</tr>" for row in self.rows)
        return (
            '<div class="wide"><table class="sortable">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def markdown(self) -> str:
        """Return a GitHub table; a bar inside a cell is escaped."""
        lines = [list(self.header), ["---", *["---:"] * (len(self.header) - 1)]]
        lines += [[cell.plain().replace("|", "\\|") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def plain(self) -> str:
        """Return the table for a terminal, columns aligned, the first to the left."""
        lines = [list(self.header), *[[cell.plain() for cell in row] for row in self.rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                text.rjust(width) if place else text.ljust(width) for place, (text, width) in pairs
            ).rstrip()
            for pairs in (enumerate(zip(line, widths, strict=True)) for line in lines)
        )


def percent(figure: dict[str, float] | None) -> Cell:
    """Return a share with its interval, in percent; a dash where it has no meaning."""
    if figure is None:
        return MISSING
    mean, low, high = (100 * figure[name] for name in ("mean", "low", "high"))
    return Cell(f"{mean:.1f}", f"[{low:.1f}, {high:.1f}]", figure["mean"])


def number(value: Any, digits: int = 3) -> Cell:
    """Return a number with so many significant digits, large ones grouped; a dash for None."""
    if value is None:
        return MISSING
    if isinstance(value, bool | str):
        return Cell(str(value))
    if isinstance(value, int) or abs(value) >= 10**digits:
        return Cell(f"{value:,.0f}", value=float(value))
    return Cell(f"{value:.{digits}g}", value=float(value))


def _small(note: str) -> str:
    return f"<small>{escape(note)}</small>" if note else ""


def _data(cell: Cell) -> str:
    kind = "" if cell.value is None else f' class="number" data-value="{cell.value!r}"'
    return f"<td{kind}>{escape(cell.text)}{' ' if cell.note else ''}{_small(cell.note)}</td>"
