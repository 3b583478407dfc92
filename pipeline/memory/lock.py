"""One process at a time writes to a folder; the operating system frees it when that process dies."""

import fcntl
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.config import UserError


class Closing(ABC):
    """What closes itself at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Let others write."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FolderLock:
    """The right to write to a folder, held from creation until `close` or the end of the process.

    The file `lock` in the folder holds the number of the process. It stays behind, without meaning.

    Args:
        folder: made if it isn't there.

    Raises:
        UserError: another process, or this one, holds it already, or the folder can't be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"{folder}: can't be written to ({error.strerror}); name a folder that you may write to"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            whose = " (this one)" if holder == str(os.getpid()) else ""
            raise UserError(
                f"{folder}: process {holder or 'unknown'}{whose} has it open for writing; end that process "
                "or close its memory, or open the folder for reading"
            ) from error
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise UserError(f"{folder}: no room for its lock ({error.strerror}); free some space") from error

    def close(self) -> None:
        """Let others write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def guarded(folder: Path) -> int:
    """Return a descriptor of a folder, to be handed on to a process that is to be known to work in there."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def await_left(folder: Path, seconds: float) -> None:
    """Return once no process has what `guarded` returned for `folder`, or after so long."""
    descriptor, ends = os.open(folder, os.O_RDONLY), time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.005)
    finally:
        os.close(descriptor)
