"""A file that records are appended to, each whole or not there at all; `pipeline.memory.records` reads it."""

import os
from pathlib import Path
from threading import Condition

from pipeline.config import UserError
from pipeline.memory.disk import write_whole
from pipeline.memory.records import START, first_line, first_number, packed, records

POLICIES = ("always", "group", "none")


class JournalError(UserError):
    """A change can't be kept, whatever it is: there is no room, or the disk failed."""


class Journal:
    """A journal that is written to, by any number of threads.

    Args:
        file: the file, which `create` made.
        sync: when a record is on disk. `always`: before `write` returns. `group`: before `settle` returns;
            threads that wait at the same time share one fsync. `none`: when the operating system likes; a
            record then survives a killed process, but not a power cut.

    Raises:
        UserError: the file can't be opened, or the policy is none of these.
        DamageError: the file holds what was never written to it. The part of a record at its end, left by a
            process that was killed, is cut off instead.
    """

    def __init__(self, file: Path, sync: str) -> None:
        if sync not in POLICIES:
            raise UserError(f"the sync policy must be one of {', '.join(POLICIES)}, not {sync!r}")
        self.file = file
        self._policy = sync
        self._changed = Condition()
        self._syncing = False
        self._refusal = ""
        try:
            self._file = os.open(file, os.O_RDWR)
        except OSError as error:
            raise UserError(f"{file}: can't be opened for writing ({error.strerror})") from error
        try:
            self._next, self._end = first_number(file, os.pread(self._file, START.size, 0)), START.size
            for record in records(file):
                self._next, self._end = record.number + 1, record.end
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        except OSError as error:
            os.close(self._file)
            raise UserError(f"{file}: its disk fails ({error.strerror}); open it where it works") from error
        except BaseException:
            os.close(self._file)
            raise
        self._synced = self._end

    @classmethod
    def create(cls, file: Path, first: int, content: bytes = b"") -> None:
        """Write a journal whose first record has the number `first`, whole or not at all.

        Args:
            file: the file.
            first: the number.
            content: its first records, as they stand in another journal; none by default.

        Raises:
            OSError: it can't be written.
        """
        write_whole(file, first_line(first) + content)

    @property
    def next(self) -> int:
        """Number of the next record."""
        return self._next

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._end

    @property
    def synced(self) -> int:
        """Bytes of the file that are known to be on disk."""
        return self._synced

    def append(self, payload: bytes) -> int:
        """Add a record and return its number once it is as safe as the policy says.

        Raises:
            UserError: as `write` and `settle`.
        """
        number = self.write(payload)
        self.settle()
        return number

    def write(self, payload: bytes) -> int:
        """Add a record and return its number.

        Raises:
            UserError: there is no room, or the disk fails. The journal is as it was then; where even that
                can't be had it takes no further record until it is opened again.
        """
        with self._changed:
            self._check()
            number, end = self._next, self._end
            record = memoryview(packed(number, payload))
            try:
                written = 0
                while written < len(record):
                    written += os.pwrite(self._file, record[written:], end + written)
                if self._policy == "always":
                    os.fsync(self._file)
                    self._synced = end + written
                self._next, self._end = number + 1, end + written
            except OSError as error:
                self._cut(end)
                raise JournalError(
                    f"{self.file}: can't be written to ({error.strerror}), so nothing was changed; "
                    "free some space there, or raise the limit, and try again"
                ) from error
            except BaseException:
                self._next, self._end, self._synced = number, end, min(self._synced, end)
                self._cut(end)
                raise
            return number

    def settle(self) -> None:
        """Return once every record that was written before this call is as safe as the policy says.

        Raises:
            UserError: the disk fails; the journal takes no further record until it is opened again.
        """
        with self._changed:
            wanted = self._end
            while self._policy == "group" and self._synced < wanted:
                self._check()
                if self._syncing:
                    self._changed.wait()
                else:
                    self._sync()

    def _sync(self) -> None:
        """Bring what was written so far to disk, while others go on writing."""
        self._syncing, end = True, self._end
        self._changed.release()
        try:
            os.fsync(self._file)
            reason = ""
        except OSError as error:
            reason = str(error.strerror)
        finally:
            self._changed.acquire()
            self._syncing = False
            self._changed.notify_all()
        if reason:
            self._end = self._synced
            self._cut(self._end)
            self.refuse(f"its disk failed ({reason})")
        else:
            self._synced = end

    def _cut(self, end: int) -> None:
        """Drop what stands behind byte `end`, on disk too."""
        try:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        except OSError as error:
            self.refuse(f"what was written of a refused record can't be removed ({error.strerror})")

    def refuse(self, reason: str) -> None:
        """Take no further record."""
        self._refusal = self._refusal or reason

    def _check(self) -> None:
        if self._refusal:
            raise JournalError(
                f"{self.file}: takes no further change, as {self._refusal}; open the folder again, which "
                "finds every change that was acknowledged"
            )

    def close(self) -> None:
        """Bring what was written to disk and close the file.

        Raises:
            UserError: as `settle`.
        """
        try:
            self.settle()
        finally:
            with self._changed:
                if self._file >= 0:
                    os.close(self._file)
                    self._file = -1
                    self.refuse("it was closed")
