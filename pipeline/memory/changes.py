"""What one change does to a memory, and the bytes that a journal keeps of it.

The bytes are a line of JSON (keys that are written and removed, keys and texts that are new, and, where
something is dated, the periods of facts and the date) and the new vectors in float16, row by row. With the
vectors in there a memory opens without its encoder, and searches as it did before; at 384 numbers a new name
costs 768 bytes more than its text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.config import UserError
from pipeline.memory.dates import Period, Periods, day
from pipeline.memory.facts import Key
from pipeline.memory.names import New

KINDS = ("entities", "relations", "slots")
VECTOR = np.dtype("<f2")
NONE = torch.empty(0, 0, dtype=torch.float16)
PARTS = {"written", "removed", "new", "dimension"}
DATED = {"on", "dated"}
"""What a change holds besides where something is dated; journals of before have none of it."""
ENCODED = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DECODED = json.JSONDecoder().decode
TEXT = {str}


@dataclass(frozen=True)
class Change:
    """Facts that hold from now on and facts that don't; one that is in both holds."""

    written: Sequence[Key] = ()
    removed: Sequence[Key] = ()
    new: Mapping[str, New] = field(default_factory=dict)
    """New names by kind (entities, relations, slots), in the order of the rows that they get."""
    dated: Mapping[Key, Periods] = field(default_factory=dict)
    """Periods that facts have from now on; none where they are forgotten."""
    on: str = ""
    """Date that the facts which hold are those of; empty where the change doesn't say."""


def encoded(change: Change) -> bytes:
    """Return the bytes that `decoded` turns into `change` again.

    Raises:
        UserError: a name can't be written as UTF-8.
    """
    named = {k: list(zip(new.keys, new.texts, strict=True)) for k, new in change.new.items() if new.keys}
    vectors = [new.vectors.half().cpu().numpy().astype(VECTOR) for new in change.new.values() if new.keys]
    values = {
        "written": change.written,
        "removed": change.removed,
        "new": named,
        "dimension": vectors[0].shape[1] if vectors else 0,
    }
    if change.on:
        values |= {"on": change.on, "dated": list(change.dated.items())}
    try:
        line = ENCODED(values).encode()
    except UnicodeEncodeError as error:
        broken = error.object[max(0, error.start - 20) : error.end]
        raise UserError(f"a name holds half a character ({broken!a}); remove it") from error
    return b"".join([line, b"\n", *(part.tobytes() for part in vectors)])


def decoded(payload: bytes) -> Change:
    """Return the change that `encoded` wrote.

    Raises:
        ValueError: the bytes are no change.
    """
    line, _, rest = payload.partition(b"\n")
    values: dict[str, Any] = DECODED(line.decode())
    if not isinstance(values, dict) or (values.keys() != PARTS and values.keys() != PARTS | DATED):
        raise ValueError("no change")
    written, removed = _strings(values["written"], 3), _strings(values["removed"], 3)
    dimension = values["dimension"]
    named = {kind: _strings(pairs, 2) for kind, pairs in dict(values["new"]).items()}
    count = sum(map(len, named.values()))
    if not named.keys() <= set(KINDS) or not isinstance(dimension, int) or (count > 0) != (dimension > 0):
        raise ValueError("new names of no kind, or without vectors")
    if len(rest) != count * dimension * VECTOR.itemsize:
        raise ValueError(f"{len(rest)} bytes of vectors for {count} names of dimension {dimension}")
    new = _named(named, rest, dimension) if count else {kind: New([], [], NONE) for kind in named}
    on, dated = values.get("on", ""), _dated(values.get("dated", []))
    if "on" in values:
        day(on)
    return Change([(h, r, t) for h, r, t in written], [(h, r, t) for h, r, t in removed], new, dated, on)


def _named(named: Mapping[str, list[list[str]]], packed: bytes, dimension: int) -> dict[str, New]:
    """Return new names by kind, with their vectors."""
    flat = np.frombuffer(packed, VECTOR).astype(np.float16)
    vectors = torch.from_numpy(flat.reshape(-1, dimension))
    new: dict[str, New] = {}
    start = 0
    for kind, pairs in named.items():
        end = start + len(pairs)
        new[kind] = New([key for key, _ in pairs], [text for _, text in pairs], vectors[start:end])
        start = end
    return new


def _dated(pairs: Any) -> dict[Key, Periods]:
    """Return periods by fact, from pairs of a key and a list of periods."""
    found: dict[Key, Periods] = {}
    for key, periods in pairs:
        [(head, relation, tail)] = _strings([key], 3)
        found[head, relation, tail] = [Period(*period).checked() for period in _strings(periods, 4)]
    return found


def _strings(rows: Any, width: int) -> list[list[str]]:
    """Return `rows`, which must be a list of lists of `width` strings."""
    if not isinstance(rows, list):
        raise ValueError(f"expected a list, got a {type(rows).__name__}")
    for row in rows:
        if not (isinstance(row, list) and len(row) == width and set(map(type, row)) == TEXT):
            raise ValueError(f"expected {width} texts, got {row!r}")
    return rows


def folded(changes: Iterable[Change]) -> Change:
    """Return the one change that does what `changes` do one after the other."""
    holds: dict[Key, bool] = {}
    dated: dict[Key, Periods] = {}
    on = ""
    new: dict[str, list[New]] = {kind: [] for kind in KINDS}
    for change in changes:
        dated |= change.dated
        on = change.on or on
        holds |= dict.fromkeys(change.removed, False)
        holds |= dict.fromkeys(change.written, True)
        for kind, names in change.new.items():
            if names.keys:
                new[kind].append(names)
    joined = {
        kind: New(
            [key for part in parts for key in part.keys],
            [text for part in parts for text in part.texts],
            torch.cat([part.vectors for part in parts]),
        )
        for kind, parts in new.items()
        if parts
    }
    written = [key for key, holding in holds.items() if holding]
    return Change(written, [key for key, holding in holds.items() if not holding], joined, dated, on)
