"""Which fact of a base has which id, once a merge has written the base anew.

Ids of facts outlive merges; rows of a base don't, as facts that went leave no gap there and those that came
stand among the others, in the order of head, relation and tail. The facts of the first base keep that order,
so that of them only those that went are noted; of those that came later row and id are, in 16 bytes.
"""

from typing import Self

import numpy as np
from jaxtyping import Int

from pipeline.memory.base import Base
from pipeline.memory.offsets import Rows

NONE = np.empty(0, dtype=np.int64)


class Numbering:
    """Ids of the facts of a base.

    Args:
        first: facts of the first base, whose ids are their rows there.
        gone: ids of those of them that are in the base no longer, ascending.
        rows: of the other facts of the base, ascending.
        ids: of these.
    """

    def __init__(self, first: int, gone: Rows = NONE, rows: Rows = NONE, ids: Rows = NONE) -> None:
        self._first = first
        self._gone = gone
        self._rows = rows
        self._ids = ids
        # A fact of the first base whose place among those still there is p comes behind so many others as
        # have a row that is at most p larger than their own place, and the same holds for what is gone.
        self._before = rows - np.arange(len(rows))
        self._left = gone - np.arange(len(gone))
        order = np.argsort(ids)
        self._by_id = ids[order], rows[order]

    def __len__(self) -> int:
        return self._first - len(self._gone) + len(self._rows)

    @property
    def plain(self) -> bool:
        """Whether ids are rows."""
        return not len(self._gone) and not len(self._rows)

    def ids(self, rows: Rows) -> Rows:
        """Return the ids of the facts in `rows` of the base."""
        if self.plain:
            return rows
        place = np.searchsorted(self._rows, rows)
        kept = rows - place
        found: Rows = kept + np.searchsorted(self._left, kept, side="right")
        if len(self._rows):
            at = place.clip(max=len(self._rows) - 1)
            late = self._rows[at] == rows
            found[late] = self._ids[at[late]]
        return found

    def rows(self, ids: Rows) -> Rows:
        """Return the rows of the base that facts stand in, -1 where they don't."""
        if self.plain:
            return np.where(ids < self._first, ids, -1)
        kept = ids - np.searchsorted(self._gone, ids)
        found: Rows = kept + np.searchsorted(self._before, kept, side="right")
        found[ids >= self._first] = -1
        for known, rows in ((self._gone, np.full(len(self._gone), -1)), self._by_id):
            if len(known):  # what went may have come back
                at = np.searchsorted(known, ids).clip(max=len(known) - 1)
                same = known[at] == ids
                found[same] = rows[at[same]]
        return found

    def moved(
        self, former: Base | None, base: Base, went: Rows, came: Rows, triples: Int[np.ndarray, "n 3"]
    ) -> Self:
        """Return the numbering of the base that a merge wrote.

        Args:
            former: the base that this is the numbering of.
            base: the new one.
            went: ids of facts that are in the former one alone, ascending.
            came: ids of facts that are in the new one alone.
            triples: these facts.

        Raises:
            ValueError: the new base doesn't hold the facts that it must.
        """
        still = np.isin(self._ids, went, invert=True)
        old = former.triples(self._rows[still]) if former is not None else triples[:0]
        ids = np.concatenate([self._ids[still], came])
        rows = base.find(np.concatenate([old, triples]))
        gone = np.union1d(self._gone, went[went < self._first])
        order = np.argsort(rows, kind="stable")
        found = type(self)(self._first, gone, rows[order], ids[order])
        if len(found) != len(base) or (
            len(rows) and (rows[order[0]] < 0 or (np.diff(rows[order]) == 0).any())
        ):
            raise ValueError(f"a merge wrote {len(base)} facts, where {len(found)} hold")
        return found
