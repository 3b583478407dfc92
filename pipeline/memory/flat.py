"""Arrays in the files of one folder, written as a stream and opened as they lie on disk.

    arrays.json      version, what the arrays are of, type, shape and checksum of each
    facts.bin        the array `facts`: its numbers row by row, little-endian, nothing else

Opening maps the files: it reads the list, checks that each file has its size, and reads no array.
"""

import json
import mmap
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.config import UserError
from pipeline.memory.disk import sync_folder, write_whole

LIST = "arrays.json"
VERSION = 1
REMEDY = "restore the folder from a copy, or build it anew"
BLOCK = 1 << 24
"""Bytes that are read at once to check a file."""


@dataclass(frozen=True)
class Array:
    """What the list says of one array."""

    dtype: str
    shape: list[int]
    crc32: int

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Column:
    """An array that is being written.

    Args:
        file: where it goes.
        dtype: of its numbers.
        width: numbers of one row; () for an array of one axis.
    """

    def __init__(self, file: Path, dtype: DTypeLike, width: tuple[int, ...] = ()) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.width = width
        self.rows = 0
        self._crc32 = 0
        self._stream: BinaryIO = file.open("wb")

    def append(self, rows: NDArray[Any]) -> None:
        """Write `rows` behind those before.

        Raises:
            ValueError: a row has another shape.
            OSError: they can't be written.
        """
        if rows.shape[1:] != self.width:
            raise ValueError(f"rows of shape {rows.shape[1:]} in an array of rows of shape {self.width}")
        content = np.ascontiguousarray(rows, dtype=self.dtype).tobytes()
        self._stream.write(content)
        self._crc32 = zlib.crc32(content, self._crc32)
        self.rows += len(rows)

    def close(self) -> Array:
        """Bring it to disk and return what the list says of it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return Array(self.dtype.str, [self.rows, *self.width], self._crc32)

    def abandon(self) -> None:
        """Write no more, not even what waits in the buffer if the disk doesn't take it."""
        with suppress(OSError):
            self._stream.close()


class FlatWriter:
    """Writes a folder of arrays; it can be opened once the `with` block ends without an error.

    Args:
        folder: new or empty.
        kind: what the arrays are of; `Flat.open` asks for it.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.about: dict[str, int] = {}
        """Numbers that are kept beside the arrays."""
        self._columns: dict[str, Column] = {}

    def column(self, name: str, dtype: DTypeLike, width: tuple[int, ...] = ()) -> Column:
        """Return a new array `name` to append to."""
        if name in self._columns:
            raise ValueError(f"the array {name!r} is written twice")
        self._columns[name] = Column(self.folder / f"{name}.bin", dtype, width)
        return self._columns[name]

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                return
            arrays = {name: asdict(column.close()) for name, column in self._columns.items()}
        finally:
            for column in self._columns.values():
                column.abandon()
        told = {"version": VERSION, "kind": self.kind, "about": self.about, "arrays": arrays}
        sync_folder(self.folder)
        write_whole(self.folder / LIST, json.dumps(told, indent=1).encode() + b"\n")


class Flat:
    """An opened folder of arrays.

    Args:
        folder: where they are.
        about: numbers that were kept beside them.
        arrays: what the list says of each.
        scanned: what the names of those arrays begin with that are read from end to end; of others what is
            read lies apart, so that reading ahead would be in vain.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, int], arrays: Mapping[str, Array], scanned: str
    ) -> None:
        self.folder = folder
        self.about = about
        self.arrays = arrays
        self._mapped = {
            name: _mapped(folder / f"{name}.bin", array, not (scanned and name.startswith(scanned)))
            for name, array in arrays.items()
        }

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array; what is read of it comes from disk, and it can't be written.

        Raises:
            UserError: the folder holds no such array.
        """
        if name not in self._mapped:
            raise UserError(f"{self.folder / LIST}: lists no array {name!r}; {REMEDY}")
        return self._mapped[name]

    def number(self, name: str) -> int:
        """Return a number that is kept beside the arrays.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.about:
            raise UserError(f"{self.folder / LIST}: says nothing of {name!r}; {REMEDY}")
        return self.about[name]

    @classmethod
    def open(cls, folder: Path, kind: str, scanned: str = "") -> Self:
        """Map the arrays in `folder`, which were written as `kind`.

        Args:
            folder: where they are.
            kind: what they must be of.
            scanned: what the names of those arrays begin with that are read from end to end; none by default.

        Raises:
            UserError: a file is missing, of another size or version, or the arrays are of another kind.
        """
        file = folder / LIST
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            if told["version"] != VERSION:
                raise UserError(f"{file}: is of version {told['version']}, not {VERSION}; build it anew")
            if told["kind"] != kind:
                raise UserError(f"{file}: lists the arrays of a {told['kind']}, not of a {kind}; {REMEDY}")
            arrays = {name: Array(**array) for name, array in told["arrays"].items()}
            about = {name: int(number) for name, number in told["about"].items()}
            return cls(folder, about, arrays, scanned)
        except OSError as error:
            missing = error.filename or file
            raise UserError(f"{missing}: can't be read ({error.strerror}); {REMEDY}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: damaged ({type(error).__name__}: {error}); {REMEDY}") from error

    def check(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            UserError: a file holds something else than what was written.
        """
        for name, array in self.arrays.items():
            file, found = self.folder / f"{name}.bin", 0
            with file.open("rb") as stream:
                while block := stream.read(BLOCK):
                    found = zlib.crc32(block, found)
            if found != array.crc32:
                raise UserError(f"{file}: damaged (its checksum differs); {REMEDY}")


def untouched(array: NDArray[Any]) -> None:
    """Let go of the main memory that what was read of a mapped array takes; the next read takes it anew."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def _mapped(file: Path, array: Array, scattered: bool) -> NDArray[Any]:
    """Return the array in `file`, mapped; if scattered, reading a page brings few others from disk.

    Raises:
        OSError: there is no such file.
        UserError: it has another size.
    """
    size = file.stat().st_size
    if size != array.size:
        raise UserError(f"{file}: holds {size} bytes, not {array.size}; {REMEDY}")
    if size == 0:
        return np.empty(array.shape, array.dtype)
    mapped = np.memmap(file, dtype=array.dtype, mode="r", shape=tuple(array.shape))
    if scattered and hasattr(mmap, "MADV_RANDOM"):
        mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return np.asarray(mapped)
