"""What a memory knows of when its facts hold, beside the facts that hold now.

Facts of which no date and no source is known are not in here: they hold at all dates.
"""

import copy
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.memory.dates import Period, Periods, day
from pipeline.memory.triples import MANY, Triple, Triples

PLAIN = (Period(),)
"""What is known of a fact that holds and is not in a chronicle."""
SCHEMA = pa.schema([("fact", pa.list_(pa.int64(), 3)), *((name, pa.string()) for name in Period._fields)])
ON = b"on"
"""What the table's metadata keep the date under."""


class Chronicle:
    """The periods of facts, by their rows.

    Args:
        facts: the table that rows are of.
    """

    def __init__(self, facts: Triples) -> None:
        self._facts = facts
        self._on = ""
        self._periods: dict[int, Periods] = {}
        self._slots: dict[tuple[int, int], set[int]] = {}
        self._ahead: list[tuple[int, int]] = []  # days behind `on` on which a fact may turn, with its row

    def __len__(self) -> int:
        return len(self._periods)

    def __contains__(self, row: int) -> bool:
        return row in self._periods

    @property
    def on(self) -> str:
        """Date that the facts which hold are those of; empty where no fact has a period."""
        return self._on if self._periods else ""

    @property
    def rows(self) -> list[int]:
        """The facts that have periods, ascending."""
        return sorted(self._periods)

    def of(self, row: int) -> Periods:
        """Return the periods of a fact, none where it holds at all dates or isn't known."""
        return self._periods.get(row, ())

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot that have periods."""
        return sorted(self._slots.get((head, relation), ()))

    def knows(self, head: int, relation: int) -> bool:
        """Return whether a fact of a slot has periods."""
        return bool(self._slots.get((head, relation)))

    def shown(self, row: int) -> Period:
        """Return the period of a fact that counts now: the present one, else the last."""
        periods = self._periods.get(row)
        if periods is None:
            return PLAIN[0]
        now = day(self._on)
        return next((period for period in periods if period.covers(now)), periods[-1])

    def take(self, periods: Mapping[int, Periods], on: str) -> None:
        """Take in the periods that facts have from now on, none where they are forgotten, and the date."""
        self._on = on
        now = day(on)
        del self._ahead[: self._until(now)]
        ahead = []
        heads = self._facts.at(np.array(list(periods), dtype=np.int64))[:, :2].tolist() if periods else []
        for (row, its), (head, relation) in zip(periods.items(), heads, strict=True):
            if its:
                self._periods[row] = tuple(its)
                self._slots.setdefault((head, relation), set()).add(row)
                ahead += [(turn, row) for period in its for turn in (period.first, period.last) if turn > now]
            elif self._periods.pop(row, None) is not None:
                self._slots[head, relation].discard(row)
        if len(ahead) > MANY:
            self._ahead = sorted(self._ahead + ahead)
        else:
            for turn in ahead:
                insort(self._ahead, turn)

    def turning(self, until: int) -> tuple[list[int], list[int]]:
        """Return the facts that hold no longer on a later day, and those that do then and don't now."""
        rows = dict.fromkeys(row for _, row in self._ahead[: self._until(until)] if row in self._periods)
        return self._turned(list(rows), until)

    def _until(self, until: int) -> int:
        return bisect_right(self._ahead, until, key=lambda turn: turn[0])

    def differing(self, at: int) -> tuple[list[int], list[int]]:
        """Return the facts that hold now and didn't on a day, and those that did then and don't now."""
        return self._turned(list(self._periods), at)

    def _turned(self, rows: Sequence[int], at: int) -> tuple[list[int], list[int]]:
        then = {row: any(period.covers(at) for period in self._periods[row]) for row in rows}
        went = [row for row, held in then.items() if not held and self._facts.holds(row)]
        came = [row for row, held in then.items() if held and not self._facts.holds(row)]
        return went, came

    def as_of(self, on: str, facts: Triples) -> Self:
        """Return what is known now, with the facts that held on a date."""
        other = copy.copy(self)
        other._facts, other._on, other._periods = facts, on, dict(self._periods)
        other._ahead = []  # nothing is written there
        other._slots = {}
        return other

    def rebase(self, facts: Triples) -> None:
        """Be of the same facts, with the same rows, in another table."""
        self._facts = facts

    def packed(self) -> bytes:
        """Return it as the bytes of a Parquet file, one row a period."""
        rows = sorted(self._periods)
        triples = self._facts.at(np.array(rows, dtype=np.int64)).tolist()
        lines = sorted((t, *period) for t, row in zip(triples, rows, strict=True) for period in self.of(row))
        columns = zip(*lines, strict=True) if lines else [()] * len(SCHEMA)
        arrays = [pa.array(column, part.type) for column, part in zip(columns, SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({ON: self._on.encode()}))
        stream = BytesIO()
        pq.write_table(table, stream)
        return stream.getvalue()

    def restore(self, content: bytes, entities: int, relations: int) -> None:
        """Take in what `packed` returned; facts that don't hold get rows.

        Args:
            content: the bytes.
            entities: how many there are.
            relations: how many there are.

        Raises:
            ValueError: no `packed` of so many entities and relations returned them.
        """
        table = pq.read_table(BytesIO(content))
        if not table.schema.equals(SCHEMA) or ON not in (table.schema.metadata or {}):
            raise ValueError("no table of periods")
        on = table.schema.metadata[ON].decode()
        its = [column.to_pylist() for column in table.columns[1:]]
        triples = table.column(0).combine_chunks().flatten().to_numpy().reshape(len(table), 3)
        found: dict[Triple, list[Period]] = {}
        for (head, relation, tail), *period in zip(triples.tolist(), *its, strict=True):
            found.setdefault((head, relation, tail), []).append(Period(*period).checked())
        if (triples < 0).any() or (triples >= (entities, relations, entities)).any():
            raise ValueError("it names what there isn't")
        rows = self._facts.place(list(found))
        self.take(dict(zip(rows, found.values(), strict=True)), on)
