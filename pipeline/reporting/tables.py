"""A table once, written as HTML, Markdown or plain text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

LONG = 24
"""A text of more characters may be broken inside words."""


@dataclass(frozen=True)
class Cell:
    """What a cell shows: a text, a smaller note beside it, and what it sorts by where that is a number."""

    text: str
    note: str = ""
    value: float | None = None
    best: bool = False
    """Shown in bold."""

    def plain(self) -> str:
        """Return text and note in one line."""
        return f"{self.text} {self.note}".strip()


MISSING = Cell("—")


@dataclass(frozen=True)
class Table:
    """A header and rows of cells; every row is as long as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells under {len(self.header)} headers")

    def html(self) -> str:
        """Return a sortable table; every text in it is escaped."""
        numeric = [
            any(row[place].value is not None for row in self.rows) for place in range(len(self.header))
        ]
        head = "".join(
            f'<th scope="col"{_aligned(right)}><button type="button">{escape(name)}</button></th>'
            for name, right in zip(self.header, numeric, strict=True)
        )
        body = "\n".join(f"<tr>{''.join(map(_data, row, numeric))}</tr>" for row in self.rows)
        return (
            '<div class="wide"><table class="sortable">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def markdown(self) -> str:
        """Return a GitHub table; a bar inside a cell is escaped."""
        lines = [list(self.header), ["---", *["---:"] * (len(self.header) - 1)]]
        lines += [[_mark(cell) for cell in row] for row in self.rows]
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


def points(difference: Mapping[str, float]) -> Cell:
    """Return a difference of shares in points, with its interval and, where it has one, its p."""
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    note = f"[{low:+.1f}, {high:+.1f}]".replace("-", "−")
    if "p" in difference:
        p = fixed(difference["p"]).text
        note += f" p {p if p[0] == '<' else f'= {p}'}"
    return Cell(f"{mean:+.1f}".replace("-", "−"), note, difference["mean"])


def number(value: Any, digits: int = 3) -> Cell:
    """Return a number with so many significant digits, large ones grouped; a dash for None."""
    if value is None:
        return MISSING
    if isinstance(value, bool | str):
        return Cell(str(value))
    if isinstance(value, int) or abs(value) >= 10**digits:
        return Cell(f"{value:,.0f}", value=float(value))
    return Cell(f"{value:.{digits}g}", value=float(value))


def best_marked(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with the highest value marked; none where all that have a value are equal."""
    values = [cell.value for cell in cells if cell.value is not None]
    distinct = len(set(values)) > 1
    return [replace(cell, best=distinct and cell.value == max(values)) for cell in cells]


def _mark(cell: Cell) -> str:
    text = f"**{cell.text}** {cell.note}".strip() if cell.best else cell.plain()
    return text.replace("|", "\\|")


def fixed(value: float | None, decimals: int = 3) -> Cell:
    """Return a number with so many decimals; a dash for None, "< 0.001" for what would round to nothing."""
    if value is None:
        return MISSING
    least = 10.0**-decimals
    return Cell(f"< {least:g}" if 0 < value < least else f"{value:,.{decimals}f}", value=float(value))


def text(value: Any) -> Cell:
    """Return a value as it is, a list with dots between, a mapping as its settings, a share in percent."""
    if isinstance(value, Mapping):
        return Cell(", ".join(f"{key}={inner}" for key, inner in value.items()))
    if isinstance(value, list):
        return Cell(" · ".join(f"{inner:,g}" for inner in value)) if value else MISSING
    return Cell(str(value))


def whole(value: Any) -> Cell:
    """Return a count, also where it is the text of a key."""
    return number(int(value)) if str(value).isdecimal() else Cell(str(value))


def in_percent(value: float) -> Cell:
    """Return a share without an interval, in percent."""
    return Cell(f"{100 * value:.1f}", value=value)


def factor(figure: Mapping[str, float]) -> Cell:
    """Return a mean with its interval, in units of its own."""
    digits = 4 if figure["mean"] < 10 else 1
    mean, low, high = (f"{figure[name]:,.{digits}f}" for name in ("mean", "low", "high"))
    return Cell(mean, f"[{low}, {high}]", figure["mean"])


def _small(note: str) -> str:
    return f"<small>{escape(note)}</small>" if note else ""


def _aligned(right: bool, best: bool = False) -> str:
    names = [name for name, wanted in (("number", right), ("best", best)) if wanted]
    return f' class="{" ".join(names)}"' if names else ""


def _data(cell: Cell, right: bool) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    said = escape(cell.text)
    if not right and len(cell.text) > LONG:  # names of settings and files are long words
        said = re.sub(r"([/=,:_])(?=\S)", r"\1<wbr>", said)
    text = f"{said} {_small(cell.note)}".strip()
    return f"<td{_aligned(right, cell.best)}{value}>{text}</td>"
