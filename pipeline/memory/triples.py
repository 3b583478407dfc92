"""The rows of a memory's facts: which there are and which hold."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int

Triple = tuple[int, int, int]
"""Rows of a fact's head, relation and tail."""


class Triples:
    """A growing table of facts; a fact that no longer holds keeps its row, and gets it back if it returns.

    Args:
        rows: facts that hold from the start, all different.
    """

    def __init__(self, rows: Int[np.ndarray, "M 3"] | None = None) -> None:
        self.rows = np.empty((0, 3), dtype=np.int64) if rows is None else rows.astype(np.int64)
        self.alive: Bool[np.ndarray, " M"] = np.ones(len(self.rows), dtype=np.bool_)
        self._row: dict[Triple, int] = {(h, r, t): row for row, (h, r, t) in enumerate(self.rows.tolist())}

    def __len__(self) -> int:
        return int(self.alive.sum())

    def add(self, facts: Sequence[Triple]) -> list[int]:
        """Let `facts` hold and return their rows, in the order given."""
        fresh = [triple for triple in dict.fromkeys(facts) if triple not in self._row]
        if fresh:
            self._row.update({triple: len(self.rows) + i for i, triple in enumerate(fresh)})
            self.rows = np.concatenate([self.rows, np.array(fresh, dtype=np.int64)])
            self.alive = np.concatenate([self.alive, np.zeros(len(fresh), dtype=np.bool_)])
        rows = [self._row[triple] for triple in facts]
        self.alive[rows] = True
        return rows

    def remove(self, rows: Iterable[int]) -> None:
        """Let the facts of `rows` hold no longer."""
        self.alive[list(rows)] = False

    def find(self, triple: Triple) -> int | None:
        """Return the row of a fact that holds, or None."""
        row = self._row.get(triple)
        return row if row is not None and self.alive[row] else None
