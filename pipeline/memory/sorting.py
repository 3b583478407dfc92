"""Sorts more numbers than memory holds, by way of files.

Numbers are sorted a run at a time; each run is cut where the upper bits change into parts, which are appended
to a file a part. Then the runs in one file after the other are merged, and the file is removed: the disk
holds each number once, here or where the caller writes it.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import UInt64

from pipeline.memory.disk import remove

PARTS = 64
"""Files that numbers are spread over, at most."""

Numbers = UInt64[np.ndarray, " n"]


class Sorter:
    """Takes numbers in any order and gives each different one once, in ascending order.

    Args:
        folder: of its files; removed when the `with` block ends.
        largest: no number is larger.
        memory: bytes that it may hold at once, about.
    """

    def __init__(self, folder: Path, largest: int, memory: int) -> None:
        self.folder = folder
        self.taken = 0
        """Numbers that came, those that came again among them."""
        self._room = max(1, memory // 4 // 8)  # a run beside what it is put together from, and when merged
        self._shift = max(0, largest.bit_length() - (PARTS - 1).bit_length())
        self._runs: list[list[int]] = [[] for _ in range((largest >> self._shift) + 1)]
        self._waiting: list[Numbers] = []
        self._held = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove(self.folder)

    def add(self, numbers: Numbers) -> None:
        """Take `numbers`.

        Raises:
            OSError: there is no room for them.
        """
        self.taken += len(numbers)
        for start in range(0, len(numbers), self._room):
            some = numbers[start : start + self._room]
            if self._held + len(some) > self._room:
                self._write()
            self._waiting.append(some)
            self._held += len(some)

    def _write(self) -> None:
        """Write what waits as a run, cut into parts."""
        if not self._waiting:
            return
        run = np.concatenate(self._waiting)
        self._waiting, self._held = [], 0
        run = _sorted(run)
        begins = np.arange(len(self._runs), dtype=np.uint64) << np.uint64(self._shift)
        cuts = [*np.searchsorted(run, begins).tolist(), len(run)]
        for part, (start, end) in enumerate(pairwise(cuts)):
            if start < end:
                with self._file(part).open("ab") as stream:
                    stream.write(run[start:end].data)  # `tofile` says nothing of a full disk
                self._runs[part].append(end - start)

    def _file(self, part: int) -> Path:
        return self.folder / f"part-{part}"

    def merged(self) -> Iterator[Numbers]:
        """Yield the numbers in ascending blocks, each once; afterwards they are gone.

        Raises:
            OSError: the last of them can't be written.
        """
        self._write()
        for part, lengths in enumerate(self._runs):
            if not lengths:
                continue
            file = self._file(part)
            yield from _merged(file, lengths, self._room)
            file.unlink()


def _merged(file: Path, lengths: list[int], room: int) -> Iterator[Numbers]:
    """Yield what the sorted runs of `lengths` in `file` hold, `room` numbers at once."""
    ends = np.cumsum(lengths)
    runs: list[Numbers] = [
        np.memmap(file, np.uint64, "r", int(end - n) * 8, n) for end, n in zip(ends, lengths, strict=True)
    ]
    step = max(1, room // len(runs))
    while runs:
        # What is not above the least of the runs' next steps can't be followed by anything smaller.
        bound = min(run[min(step, len(run)) - 1] for run in runs)
        taken = [int(np.searchsorted(run[:step], bound, side="right")) for run in runs]
        yield _sorted(np.concatenate([run[:n] for run, n in zip(runs, taken, strict=True)]))
        runs = [run[n:] for run, n in zip(runs, taken, strict=True) if n < len(run)]


def _sorted(numbers: Numbers) -> Numbers:
    """Return the different ones of `numbers`, ascending; `numbers` itself is sorted on the way."""
    numbers.sort()
    first = np.ones(len(numbers), dtype=np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return numbers if first.all() else numbers[first]
