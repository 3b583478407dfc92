"""The records of a journal, as they stand in its file.

The file begins with `MAGIC`, the version and the number of its first record. A record is its number, its
length in bytes, the checksum (CRC-32) of its content, the checksum of these three, then the content. As the
length has a checksum of its own, a record that the file ends within was never acknowledged, and whatever else
doesn't fit is damage.
"""

import logging
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.config import UserError

MAGIC = b"FACTLOG\n"
VERSION = 1
START = struct.Struct("<8sIQI")
"""Magic, version, number of the first record, checksum of these."""
HEAD = struct.Struct("<QQII")
"""Number, length and checksum of a record, checksum of these."""
CHECKED = HEAD.size - 4
"""Bytes of a record's head that its last checksum covers."""
END = sys.maxsize
"""Stands for the end of a file, wherever that is."""

logger = logging.getLogger(__name__)


class DamageError(UserError):
    """A file of a memory holds what was never written to it.

    Args:
        file: the file.
        offset: byte from which on it can't be trusted.
        reason: what doesn't fit.
    """

    def __init__(self, file: Path, offset: int, reason: str) -> None:
        super().__init__(
            f"{file}: damaged at byte {offset} ({reason}); `python -m pipeline.memory verify --repair "
            f"--folder {file.parent}` keeps what stands before it and sets the rest aside"
        )
        self.file = file
        self.offset = offset


class Record(NamedTuple):
    """A record of a journal."""

    number: int
    start: int
    """Byte of the file that it begins at."""
    end: int
    payload: bytes


def records(file: Path, after: Record | None = None, until: int = END) -> Iterator[Record]:
    """Yield the whole records of a journal; one that the file ends within is passed over, and logged.

    Args:
        file: the journal.
        after: the record to begin behind; None begins with the first one.
        until: byte at which to end, behind a whole record; the end of the file by default.

    Raises:
        DamageError: something else doesn't fit.
    """
    with file.open("rb") as stream:
        size = min(os.fstat(stream.fileno()).st_size, until)
        expected, at = first_number(file, stream.read(START.size)), START.size
        if after is not None:
            expected, at = after.number + 1, after.end
            stream.seek(at)
        while at + HEAD.size <= size:
            head = stream.read(HEAD.size)
            if len(head) < HEAD.size:  # cut off again by its writer meanwhile
                break
            number, length, checksum, own = HEAD.unpack(head)
            if zlib.crc32(head[:CHECKED]) != own:
                raise DamageError(file, at, "a record's head fails its checksum")
            if number != expected:
                raise DamageError(file, at, f"record {number} stands where {expected} should")
            end = at + HEAD.size + length
            if end > size:
                break
            payload = stream.read(length)
            if len(payload) < length:
                break
            if zlib.crc32(payload) != checksum:
                raise DamageError(file, at, f"record {number} fails its checksum")
            yield Record(number, at, end, payload)
            expected, at = number + 1, end
        if at < size:
            logger.warning("%s: %d bytes of a record that was never acknowledged", file, size - at)


def located(file: Path, number: int) -> Record | None:
    """Return where record `number` of a journal stands, by the heads before it; None where it has none.

    Raises:
        DamageError: a head fails its checksum.
        OSError: it can't be read.
    """
    with file.open("rb") as stream:
        expected, at = first_number(file, stream.read(START.size)), START.size
        while expected <= number:
            stream.seek(at)
            head = stream.read(HEAD.size)
            if len(head) < HEAD.size:
                return None
            found, length, _, own = HEAD.unpack(head)
            if zlib.crc32(head[:CHECKED]) != own or found != expected:
                raise DamageError(file, at, "a record's head fails its checksum")
            start, at, expected = at, at + HEAD.size + length, expected + 1
            if found == number:
                return Record(number, start, at, b"")
    return None


def first_number(file: Path, start: bytes) -> int:
    """Return the number of a journal's first record."""
    if len(start) < START.size:
        raise DamageError(file, 0, f"it has {len(start)} bytes, fewer than its first line")
    magic, version, first, checksum = START.unpack(start)
    if magic != MAGIC or zlib.crc32(start[:-4]) != checksum:
        raise DamageError(file, 0, "its first line is no journal's")
    if version != VERSION:
        raise UserError(f"{file}: written by another version of this program ({version}); use that one")
    return int(first)


def first_line(first: int) -> bytes:
    """Return what a journal begins with whose first record has the number `first`."""
    start = START.pack(MAGIC, VERSION, first, 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start))


def packed(number: int, payload: bytes) -> bytes:
    """Return the bytes of a record."""
    head = HEAD.pack(number, len(payload), zlib.crc32(payload), 0)[:CHECKED]
    return head + struct.pack("<I", zlib.crc32(head)) + payload
