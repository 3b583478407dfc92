"""Where the rows of a table begin, in about two bytes a row.

Rows come in blocks of 64: the start of each block is kept in full, those inside it as distances of 16 bits. A
block that spans 65,536 or more, because a hub lies in it, keeps its distances in 64 bits in a list of their
own, so that every start is exact.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from pipeline.config import UserError
from pipeline.memory.flat import REMEDY, Flat, FlatWriter, untouched

BLOCK = 64
"""Rows of a block."""
NARROW = 1 << 16
"""A distance that no longer fits."""
FILL = 1 << 20
"""Empty rows written at once."""

Rows = Int[np.ndarray, " n"]


class Ranges(NamedTuple):
    """From where to where rows go."""

    start: Rows
    end: Rows


class OffsetsWriter:
    """Writes starts from the lengths of the rows, as a stream.

    Args:
        files: where to.
        name: of the offsets there.
    """

    def __init__(self, files: FlatWriter, name: str) -> None:
        self._blocks = files.column(f"{name}.blocks", np.uint64)
        self._near = files.column(f"{name}.near", np.uint16)
        self._wide = files.column(f"{name}.wide", np.uint32)
        self._far = files.column(f"{name}.far", np.uint64, (BLOCK,))
        self._files = files
        self._name = name
        self._waiting: NDArray[np.int64] = np.empty(0, np.int64)
        self._rows = 0
        self._end = 0
        self._last = 0  # members of the row that `count` was last at

    def count(self, rows: Rows) -> None:
        """Count the next members by their rows, which ascend; `fill` ends it."""
        if not len(rows):
            return
        lengths = np.bincount(rows - self._rows)
        lengths[0] += self._last
        self.append(lengths[:-1])
        self._last = int(lengths[-1])

    def fill(self, rows: int) -> None:
        """End counting: there are `rows`, of which those that no member came for are empty."""
        if self._rows < rows:
            self.append(np.array([self._last]))
        while self._rows < rows:
            self.append(np.zeros(min(rows - self._rows, FILL), np.int64))

    def append(self, lengths: Int[np.ndarray, " n"]) -> None:
        """Write the next rows, of these lengths."""
        self._rows += len(lengths)
        waiting = np.concatenate([self._waiting, lengths.astype(np.int64)])
        whole = len(waiting) - len(waiting) % BLOCK
        self._write(waiting[:whole].reshape(-1, BLOCK))
        self._waiting = waiting[whole:]

    def close(self) -> None:
        """Write what is left; the rows end where the last one does."""
        left = np.zeros((len(self._waiting) // BLOCK + 1, BLOCK), np.int64)  # with room for the end of all
        left.reshape(-1)[: len(self._waiting)] = self._waiting
        self._write(left)
        self._files.about[f"{self._name}.rows"] = self._rows

    def _write(self, lengths: Int[np.ndarray, "b 64"]) -> None:
        ends = lengths.cumsum(axis=1)
        blocks = self._end + np.concatenate([[0], ends[:, -1].cumsum()])
        within = ends - lengths
        wide = within[:, -1] >= NARROW
        first = self._blocks.rows
        self._blocks.append(blocks[:-1])
        self._near.append(np.where(wide[:, None], 0, within).reshape(-1))
        self._wide.append(first + np.flatnonzero(wide))
        self._far.append(within[wide])
        self._end = int(blocks[-1])


class Offsets:
    """Starts of rows, mapped.

    Args:
        files: where they are.
        name: of the offsets there.

    Raises:
        UserError: an array is missing, or is not as long as another one says.
    """

    def __init__(self, files: Flat, name: str) -> None:
        self._rows = files.number(f"{name}.rows")
        self._blocks = files[f"{name}.blocks"]
        self._near = files[f"{name}.near"]
        self._wide = files[f"{name}.wide"]
        self._far = files[f"{name}.far"]
        sizes = len(self._near), len(self._far)
        if sizes != (len(self._blocks) * BLOCK, len(self._wide)) or not 0 <= self._rows < len(self._near):
            raise UserError(f"{files.folder}: damaged (the arrays of {name} don't fit together); {REMEDY}")
        # Single numbers are read through views, in under half the time that an array takes.
        self._views = self._blocks.data, self._near.data, self._far.data

    def __len__(self) -> int:
        return self._rows

    @property
    def end(self) -> int:
        """Where the last row ends."""
        return int(self[np.array([self._rows])][0])

    def untouched(self) -> None:
        """Let go of the main memory that what was read takes; see `pipeline.memory.flat`."""
        for array in (self._blocks, self._near, self._wide, self._far):
            untouched(array)

    def __getitem__(self, rows: Rows) -> Rows:
        """Return where `rows` begin, each between 0 and, for the end of all, their number."""
        block = rows // BLOCK
        starts: Rows = self._blocks[block].astype(np.int64) + self._near[rows]
        if len(self._wide):
            place = np.searchsorted(self._wide, block.astype(np.uint32)).clip(max=len(self._wide) - 1)
            far = np.flatnonzero(self._wide[place] == block)
            starts[far] += self._far[place[far], rows[far] % BLOCK].astype(np.int64)
        return starts

    def one(self, row: int) -> int:
        """Return where `row` begins: `[…]` for one row, in a tenth of the time."""
        blocks, narrow, far = self._views
        block = row // BLOCK
        near: int = narrow[row]
        if not near and row % BLOCK and len(far):  # distances of a block that spans too much are 0 there
            place = int(self._wide.searchsorted(block))
            if place < len(far) and self._wide[place] == block:
                near = far[place, row % BLOCK]
        start: int = blocks[block]
        return start + near

    def span(self, row: int) -> tuple[int, int]:
        """Return from where to where `row` goes."""
        return self.one(row), self.one(row + 1)

    def ranges(self, rows: Rows) -> Ranges:
        """Return from where to where `rows` go."""
        return Ranges(self[rows], self[rows + 1])

    def row(self, places: Int[np.ndarray, " n"]) -> Rows:
        """Return the rows that `places` lie in, each from 0 to below `end`."""
        block = np.searchsorted(self._blocks, places.astype(np.uint64), side="right") - 1
        rows = np.minimum(block[:, None] * BLOCK + np.arange(BLOCK), self._rows)
        starts = self[rows.reshape(-1)].reshape(rows.shape)
        # The last that begins at or before it: rows without a place begin where the next one does.
        found: Rows = block * BLOCK + (starts <= places[:, None]).sum(axis=1) - 1
        return found


def expand(ranges: Ranges) -> tuple[Rows, Rows]:
    """Return every place in `ranges`, one range after the other, and which range each is of."""
    lengths = ranges.end - ranges.start
    owner = np.repeat(np.arange(len(lengths)), lengths)
    shift = ranges.start - (lengths.cumsum() - lengths)
    return np.arange(len(owner)) + shift[owner], owner
