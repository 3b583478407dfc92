"""The answers that went wrong: of which kinds they are, and the worst with the facts that were read."""

from collections.abc import Hashable, Mapping, Sequence
from html import escape

import pandas as pd

from pipeline.reporting.compare import reference, split_names, worst
from pipeline.reporting.gather import Method
from pipeline.reporting.tables import Cell, Table, number

PER_SPLIT = 4
KINDS = {
    "refused": "refused, though a fact answers",
    "answered": "answered, though no fact does",
    "misread": "right fact read, said otherwise",
    "unread": "right fact found, not read",
    "unfound": "right fact not found",
    "without": "reads no facts",
}
"""What can have gone wrong, the first that holds."""


def kinds(methods: Sequence[Method]) -> Table:
    """Return how many wrong answers each method gave, and how many are of each kind, over all seeds."""
    rows = []
    for method in methods:
        wrong = method.rows[method.rows["em"] == 0]
        found = _kind(wrong).value_counts()
        counts = [number(int(found.get(kind, 0))) for kind in KINDS]
        rows.append([Cell(method.name), number(len(method.rows)), number(len(wrong)), *counts])
    return Table(["method", "asked", "wrong", *KINDS.values()], rows)


def _kind(wrong: pd.DataFrame) -> "pd.Series[str]":
    answerable = wrong["answers"].map(len) > 0
    read, found = (wrong[name].fillna(-1) for name in ("read_place", "candidate_place"))
    kind = pd.Series("without", index=wrong.index)
    kind[(read == 0) | (found == 0)] = "unfound"
    kind[found > 0] = "unread"
    kind[read > 0] = "misread"
    kind[~answerable] = "answered"
    kind[answerable & wrong["refused"]] = "refused"
    return kind


def errors(methods: Sequence[Method]) -> str:
    """Return both as HTML; nothing where every answer is right."""
    blocks = []
    for method in methods:
        rows = pd.concat([worst(method, split, PER_SPLIT) for split in split_names([method])])
        if len(rows):
            items = "\n".join(_error(row) for row in rows.to_dict("records"))
            summary = (
                f"{escape(method.name)}: {len(rows)} of {(method.rows['em'] == 0).sum():,} wrong answers"
            )
            opened = " open" if method is reference(methods) else ""
            blocks.append(
                f'<details{opened}><summary>{summary}</summary><ul class="errors">{items}</ul></details>'
            )
    if not blocks:
        return ""
    return (
        "<p>Wrong answers over all splits, by the first reason that holds.</p>"
        + kinds(methods).html()
        + f"<p>Up to {PER_SPLIT} a split: those given with the most confidence, furthest from a right "
        "answer. Facts that were read stand with their weights; a gold fact among them is marked.</p>"
        + "\n".join(blocks)
    )


def _error(row: Mapping[Hashable, object]) -> str:
    gold = set(_items(row["gold"]))
    read = zip(_items(row["facts"]), _items(row["read"]), _items(row["weights"]), strict=True)
    facts = "<br>".join(
        f"<span class='{'gold' if fact in gold else 'other'}'>{escape(str(text))}</span> "
        f"<small>{weight:.3f}</small>"
        for fact, text, weight in read
    )
    said = "refused" if row["refused"] else str(row["prediction"])
    right = " · ".join(map(str, _items(row["answers"]))) or "no fact answers this"
    lines = [("said", f'<span class="said">{escape(said)}</span>'), ("right", escape(right))]
    if facts:
        lines.append(("read", facts))
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines)
    return (
        f'<li><span class="question">{escape(str(row["text"]))}</span>'
        f'<span class="tag">{escape(str(row["split"]))}</span>'
        f'<span class="tag">refusal {row["refusal"]:.2f}</span><dl>{listed}</dl></li>'
    )


def _items(value: object) -> list[object]:
    return list(value)  # type: ignore[call-overload, no-any-return]
