"""Sorts more numbers than memory holds, by way of files.

Numbers are sorted a run at a time; each run is cut where the upper bits change into parts, which are appended
to a file a part. Then the runs in one file after the other are merged, and the file is removed: the disk
holds each number once, here or where the caller writes it. Several workers sort as many runs, each as much
smaller, and merge as many files at once; what comes out is the same.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import UInt64

from pipeline.memory.ahead import ahead
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
        workers: threads that sort.
    """

    def __init__(self, folder: Path, largest: int, memory: int, workers: int = 1) -> None:
        self.folder = folder
        self.taken = 0
        """Numbers that came, those that came again among them."""
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._sorting: deque[Future[Numbers]] = deque()
        # A run beside what it is put together from, and when merged.
        self._room = max(1, memory // 4 // 8 // workers)
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
        if self._pool is not None:
            self._pool.shutdown()
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
        """Sort what waits as a run and write it, now or when workers have sorted it."""
        if not self._waiting:
            return
        run = np.concatenate(self._waiting)
        self._waiting, self._held = [], 0
        if self._pool is None:
            self._append(_sorted(run))
            return
        self._sorting.append(self._pool.submit(_sorted, run))
        if len(self._sorting) == self._workers:
            self._append(self._sorting.popleft().result())

    def _append(self, run: Numbers) -> None:
        """Write a sorted run, cut into parts."""
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
        while self._sorting:
            self._append(self._sorting.popleft().result())
        parts = [part for part, lengths in enumerate(self._runs) if lengths]
        longest = max((sum(lengths) for lengths in self._runs), default=0)
        # A whole part a worker, where there is memory for it, beside what it is put together from.
        workers = min(self._workers, self._room * self._workers // max(1, 2 * longest))
        if workers > 1:
            for part, numbers in zip(parts, ahead(self._whole, parts, workers), strict=True):
                yield numbers
                self._file(part).unlink()
            return
        for part in parts:
            yield from _merged(self._file(part), self._runs[part], self._room * self._workers)
            self._file(part).unlink()

    def _whole(self, part: int) -> Numbers:
        """Return the numbers of a part, each once, ascending."""
        return _sorted(np.fromfile(self._file(part), np.uint64))


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
