"""The acceptance ledger: each line of an issue beside the figure that was measured for it.

A row says which line of which issue it is about (`issue` by its name, `line` by its number), what it asks
for (`target`), what was measured (`figure`: the path of a value inside a JSON file and the value), whether
that holds (`holds`), where the figure stands (`source`, a file of the repository), and the `command` that
measures it again. A row that does not hold has a `reason`.

After something was measured again, `python -m pipeline.reporting.ledger` takes the figures over from their
sources, judges the bounds, and says what is left to do by hand.
"""

import json
import operator
import re
import sys
from pathlib import Path
from typing import Any

from pipeline.config import ROOT

FIELDS = {
    "issue": str,
    "line": int,
    "target": str,
    "figure": dict,
    "holds": bool,
    "source": str,
    "command": str,
}

_BOUND = re.compile(r"(?P<sign>>=|<=|≥|≤|==|=|>|<)\s*(?P<number>-?[\d,]*\.?\d+)\s*(?P<percent>%)?$")
_SIGNS = {
    "≥": operator.ge,
    ">=": operator.ge,
    "≤": operator.le,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "==": operator.eq,
}


def problems(ledger: Path, root: Path) -> list[str]:
    """Return what is wrong with the ledger, one sentence a problem; an empty list where nothing is.

    A target that ends in a bound ("EM on unseen ≥ 90 %", "<= 20") is checked against the figure, and
    `holds` must say what comes out; any other target is a text for the reader.

    Args:
        ledger: the JSON file, a list of rows.
        root: the folder that the sources of the rows are relative to.
    """
    try:
        rows = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        return [f"{ledger}: can't be read ({error})"]
    if not isinstance(rows, list):
        return [f"{ledger}: must be a list of rows, not a {type(rows).__name__}"]
    return [f"row {number}: {problem}" for number, row in enumerate(rows) for problem in _row(row, root)]


def refresh(ledger: Path, root: Path) -> list[str]:
    """Take each row's figure over from its source and judge it by its bound; return what is still wrong.

    A row that no longer holds keeps its place and needs a `reason`, which somebody must write; one that holds
    now loses it. Rows without a bound keep their verdict.

    Args:
        ledger: the JSON file, a list of rows; it is written anew where a row changes.
        root: the folder that the sources of the rows are relative to.
    """
    try:
        rows = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return problems(ledger, root)
    for row in rows if isinstance(rows, list) else []:
        try:
            source = json.loads((root / row["source"]).read_text(encoding="utf-8"))
            row["figure"]["value"] = figure_at(source, row["figure"]["path"])
        except (KeyError, TypeError, OSError, json.JSONDecodeError):
            continue
        if (within := _within(row)) is not None:
            row["holds"] = within
            if within:
                row.pop("reason", None)
    ledger.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return problems(ledger, root)


def figure_at(content: Any, path: str) -> Any:
    """Return the value at a dotted path of nested objects and lists; a key may hold dots itself.

    >>> figure_at({"mass=0.9": [{"em": 0.5}]}, "mass=0.9.0.em")
    0.5

    Raises:
        KeyError: the path leads nowhere; the text says how far it went.
    """
    rest = path
    while rest:
        step, _, after = rest.partition(".")
        if isinstance(content, list) and step.isdecimal() and int(step) < len(content):
            content, rest = content[int(step)], after
            continue
        found = content if isinstance(content, dict) else {}
        keys = [key for key in found if f"{rest}.".startswith(f"{key}.")]
        if not keys:
            raise KeyError(f"nothing at {path.removesuffix(after).rstrip('.')}")
        key = max(keys, key=len)
        content, rest = content[key], rest[len(key) + 1 :]
    return content


def _row(row: Any, root: Path) -> list[str]:
    if not isinstance(row, dict):
        return [f"must be an object, not a {type(row).__name__}"]
    found = [
        f"{name} must be a {kind.__name__}, not {row.get(name)!r}"
        for name, kind in FIELDS.items()
        if type(row.get(name)) is not kind or row[name] in ("", {})
    ]
    if unknown := sorted(row.keys() - FIELDS.keys() - {"reason"}):
        found.append(f"unknown field {unknown[0]!r}")
    return found or [*_figure(row, root), *_verdict(row)]


def _figure(row: dict[str, Any], root: Path) -> list[str]:
    figure, source = row["figure"], root / row["source"]
    if figure.keys() != {"path", "value"}:
        return [f"figure must have path and value, not {sorted(figure)}"]
    if not source.is_file():
        return [f"source {row['source']} does not exist"]
    try:
        stands = figure_at(json.loads(source.read_text(encoding="utf-8")), figure["path"])
    except (KeyError, json.JSONDecodeError) as error:
        return [f"source {row['source']}: {error.args[0]}"]
    if stands != figure["value"] or isinstance(stands, bool) != isinstance(figure["value"], bool):
        return [f"figure {figure['path']} is {stands!r} in {row['source']}, not {figure['value']!r}"]
    return []


def _verdict(row: dict[str, Any]) -> list[str]:
    found = []
    if not row["holds"] and not row.get("reason"):
        found.append("does not hold and gives no reason")
    if (within := _within(row)) is not None and within != row["holds"]:
        value = row["figure"]["value"]
        found.append(f"holds is {row['holds']}, but {value} against {row['target']!r} says otherwise")
    return found


def _within(row: dict[str, Any]) -> bool | None:
    bound, value = _BOUND.search(row["target"].strip()), row["figure"].get("value")
    if not bound or not isinstance(value, int | float) or isinstance(value, bool):
        return None
    limit = float(bound["number"].replace(",", "")) / (100 if bound["percent"] else 1)
    within: bool = _SIGNS[bound["sign"]](value, limit)
    return within


if __name__ == "__main__":
    sys.exit("\n".join(refresh(ROOT / "reports" / "acceptance.json", ROOT)) or None)
