"""Maps a pure function over blocks, in order: here in turn, or on the workers of a Ray cluster.

Stages say what is done to a block, the section `blocks` of the configuration says where. Results come in the
order of the blocks, as tables or arrays, and are the same wherever they are computed. Finished blocks can be
kept, so that a run that died goes on from them: each is one file, written whole, named by what the block, the
function and the code were; once the stage has ended well they are removed.
"""

import hashlib
import io
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import Block, Mapped, Result, in_turn
from pipeline.config import UserError
from pipeline.ray import cause, connected, ray_or_error


@dataclass(frozen=True, kw_only=True)
class Local:
    """Blocks are computed in this process, one after the other."""

    kept: Path | None
    """Folder that finished blocks are kept in until the stage ends; null keeps none."""

    @contextmanager
    def mapping(self) -> Iterator[Mapped]:
        """Give what maps inside this block, at whose end finished blocks are removed, but for an error."""
        if self.kept is None:
            yield in_turn
            return
        with _keeping(self.kept) as kept:

            def mapped(run: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
                name = fingerprint(run)
                for block in blocks:
                    file = kept.file(name, block)
                    if not kept.holds(file):
                        kept.write(file, plain(run(block)))
                    yield kept.read(file)

            yield mapped


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Blocks are computed by tasks of a Ray cluster, with a bounded number under way.

    A block whose worker dies is computed anew, by another one.
    """

    address: str
    """`HOST:PORT` of the cluster's head, `auto` for that of this machine, `local` for one of this process."""
    cpus: float
    """Processors of a block."""
    gpus: float
    """GPUs of a block."""
    ahead: int
    """Blocks under way or waiting to be taken, at most: no more are read before the first of them is done."""
    retries: int
    """How often a block is computed anew whose worker died."""
    kept: Path | None
    """Folder that finished blocks are kept in until the stage ends; null keeps none."""

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0 or self.ahead < 1 or self.retries < 0:
            raise ValueError(
                "blocks.cpus must be above 0, gpus and retries at least 0, and ahead at least 1, not "
                f"{self.cpus}, {self.gpus}, {self.retries} and {self.ahead}"
            )

    @contextmanager
    def mapping(self) -> Iterator[Mapped]:
        """Give what maps inside this block, at whose end finished blocks are removed, but for an error."""
        connected(self.address)
        with _keeping(self.kept) as kept:

            def mapped(run: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
                return self._mapped(kept, run, blocks)

            yield mapped

    def _mapped(
        self, kept: "Kept", run: Callable[[Block], Result], blocks: Iterable[Block]
    ) -> Iterator[Result]:
        ray = ray_or_error()
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries}
        task, held, name = ray.remote(computed).options(**options), ray.put(run), fingerprint(run)
        waiting: deque[tuple[Path, Any]] = deque()

        def first() -> Any:
            file, reference = waiting.popleft()
            if reference is None:
                return kept.read(file)
            try:
                found = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"a block was lost {self.retries + 1} times ({type(error).__name__}); look at the "
                    "workers of the Ray cluster, and run the stage again: it goes on from the finished blocks"
                ) from error
            kept.write(file, found)
            return found

        for block in blocks:
            file = kept.file(name, block)
            waiting.append((file, None if kept.holds(file) else task.remote(name, held, block)))
            if len(waiting) >= self.ahead:
                yield first()
        while waiting:
            yield first()


Blocks = Local | Ray
"""Where blocks are computed."""

_runs: dict[str, Callable[[Any], Any]] = {}
"""What this worker computed last, with the weights that it has read for it."""


def computed(name: str, run: Callable[[Any], Any], block: Any) -> Any:
    """Return `run(block)` in main memory; what was read for the last block of the same run is used again."""
    if name not in _runs:
        _runs.clear()
        _runs[name] = run
    return plain(_runs[name](block))


def plain(found: Any) -> Any:
    """Return a table as it is, and a tensor as an array in main memory."""
    return found if isinstance(found, pa.Table | np.ndarray) else np.asarray(found.cpu())


def fingerprint(run: Callable[[Any], Any]) -> str:
    """Return a hash of a function with what it holds, and of the code of this project."""
    return hashlib.sha256(_code() + pickle.dumps(run)).hexdigest()


@cache
def _code() -> bytes:
    found = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        found.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return found.digest()


class Kept:
    """Finished blocks in a folder.

    Args:
        folder: made where it isn't there; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._used: list[Path] = []

    def file(self, name: str, block: Any) -> Path:
        """Return the file of a block of a run."""
        if self._folder is None:
            return Path()
        found = hashlib.sha256(name.encode())
        pickle.dump(block, _Hashing(found), protocol=5)
        file = self._folder / found.hexdigest()
        self._used.append(file)
        return file

    def holds(self, file: Path) -> bool:
        """Return whether a block is finished."""
        return self._folder is not None and file.is_file()

    def read(self, file: Path) -> Any:
        """Return a finished block."""
        content = file.read_bytes()
        if content.startswith(b"\x93NUMPY"):
            return np.load(io.BytesIO(content), allow_pickle=False)
        return pq.read_table(io.BytesIO(content))

    def write(self, file: Path, found: Any) -> None:
        """Write a finished block, whole or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        if isinstance(found, pa.Table):
            pq.write_table(found, stream)
        else:
            np.save(stream, found, allow_pickle=False)
        part = file.with_name(f".{file.name}.part")
        part.write_bytes(stream.getvalue())
        part.replace(file)

    def forget(self) -> None:
        """Remove the blocks that were asked for."""
        for file in self._used:
            file.unlink(missing_ok=True)
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()


class _Hashing(io.RawIOBase):
    """Takes bytes into a hash."""

    def __init__(self, into: Any) -> None:
        self._into = into

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self._into.update(view)
        return view.nbytes


@contextmanager
def _keeping(folder: Path | None) -> Iterator[Kept]:
    kept = Kept(folder)
    yield kept
    kept.forget()
