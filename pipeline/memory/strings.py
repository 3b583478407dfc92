"""Tables of strings on disk: from row to string, and back, without holding any of them in memory.

The bytes of all strings lie one after the other. To find a string, rows are kept in the order of the CRC-32
of their bytes, in buckets of four to eight by its upper bits: about 4.5 bytes a row.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

from pipeline.memory.flat import Flat, FlatWriter
from pipeline.memory.offsets import Offsets, OffsetsWriter, Ranges, Rows, expand
from pipeline.memory.sorting import Sorter

HASH_BITS = ROW_BITS = 32
BUCKET = 4
"""Rows of a bucket, at least, on average; less than twice as many."""
BLOCK = 1 << 16
"""Strings compared at once."""


class StringsWriter:
    """Writes a table of strings as a stream.

    Args:
        files: where to.
        name: of the table there.
    """

    def __init__(self, files: FlatWriter, name: str) -> None:
        self._bytes = files.column(f"{name}.bytes", np.uint8)
        self._offsets = OffsetsWriter(files, name)

    def append(self, strings: Sequence[str]) -> None:
        """Write `strings` behind those before."""
        joined = "".join(strings)
        content = joined.encode()
        # Where every character is one byte, strings need not be encoded one by one.
        lengths = map(len, strings if len(content) == len(joined) else map(str.encode, strings))
        self._bytes.append(np.frombuffer(content, np.uint8))
        self._offsets.append(np.fromiter(lengths, np.int64, len(strings)))

    def close(self) -> None:
        """Write what is left."""
        self._offsets.close()


class Strings:
    """A table of strings, mapped.

    Args:
        files: where it is.
        name: of the table there.

    Raises:
        UserError: an array is missing.
    """

    def __init__(self, files: Flat, name: str) -> None:
        self._bytes = files[f"{name}.bytes"]
        self._offsets = Offsets(files, name)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> str:
        """Return the string of `row`, which is counted from 0.

        Raises:
            IndexError: there is no such row.
        """
        return self.many(np.array([row]))[0]

    def many(self, rows: Int[np.ndarray, " n"]) -> list[str]:
        """Return the strings of `rows`.

        Raises:
            IndexError: a row is not in the table.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a table of {len(self)} strings")
        ranges = zip(*(part.tolist() for part in self._offsets.ranges(rows)), strict=True)
        return [self._bytes[start:end].tobytes().decode() for start, end in ranges]


class KeysWriter:
    """Writes a table of strings that are all different, which can be found.

    Args:
        files: where to.
        name: of the table there.
        sorter: of numbers up to `LARGEST`, empty.
    """

    LARGEST = (1 << 64) - 1

    def __init__(self, files: FlatWriter, name: str, sorter: Sorter) -> None:
        self._strings = StringsWriter(files, name)
        self._order = files.column(f"{name}.order", np.uint32)
        self._buckets = OffsetsWriter(files, f"{name}.buckets")
        self._sorter = sorter
        self._rows = 0

    def append(self, keys: Sequence[str]) -> None:
        """Write `keys` behind those before."""
        self._strings.append(keys)
        rows = np.arange(self._rows, self._rows + len(keys), dtype=np.uint64)
        self._sorter.add(_hashes(keys) << np.uint64(ROW_BITS) | rows)
        self._rows += len(keys)

    def close(self) -> Rows:
        """Write what is left; return the rows whose hash another one has: those that may be alike."""
        self._strings.close()
        shift = _shift(self._rows)
        last = np.empty(0, np.uint64)
        clashes = [np.empty(0, np.int64)]
        for block in self._sorter.merged():
            self._order.append(block & np.uint64((1 << ROW_BITS) - 1))
            self._buckets.count((block >> np.uint64(ROW_BITS) >> np.uint64(shift)).astype(np.int64))
            seen = np.concatenate([last, block])
            hashes = seen >> np.uint64(ROW_BITS)
            again = np.flatnonzero(hashes[1:] == hashes[:-1])
            rows = (seen & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
            clashes += [rows[again], rows[again + 1]]
            last = block[-1:]
        self._buckets.fill(1 << (HASH_BITS - shift))
        self._buckets.close()
        return np.unique(np.concatenate(clashes))


class Keys(Strings):
    """A table of strings that are all different, mapped.

    Args:
        files: where it is.
        name: of the table there.

    Raises:
        UserError: an array is missing.
    """

    def __init__(self, files: Flat, name: str) -> None:
        super().__init__(files, name)
        self._order = files[f"{name}.order"]
        self._buckets = Offsets(files, f"{name}.buckets")
        self._shift = _shift(len(self))

    def find(self, keys: Sequence[str]) -> Rows:
        """Return the row of each of `keys`, -1 where it is not in the table."""
        found = np.full(len(keys), -1)
        for start in range(0, len(keys) if len(self) else 0, BLOCK):
            part = slice(start, start + BLOCK)
            found[part] = self._find([key.encode(errors="surrogatepass") for key in keys[part]])
        return found

    def _find(self, keys: list[bytes]) -> Rows:
        """Compare each of `keys` with all strings of its bucket, byte by byte but all at once."""
        hashes = np.array([zlib.crc32(key) for key in keys], np.uint64)
        ranges = self._buckets.ranges((hashes >> np.uint64(self._shift)).astype(np.int64))
        places, asked = expand(ranges)
        rows = self._order[places].astype(np.int64)
        wanted = np.frombuffer(b"".join(keys), np.uint8)
        lengths = np.array([len(key) for key in keys], np.int64)
        begins = lengths.cumsum() - lengths
        held = self._offsets.ranges(rows)
        alike = np.flatnonzero(held.end - held.start == lengths[asked])
        rows, asked = rows[alike], asked[alike]
        mine, pair = expand(Ranges(held.start[alike], held.end[alike]))
        theirs, _ = expand(Ranges(begins[asked], begins[asked] + lengths[asked]))
        differs = np.bincount(pair[self._bytes[mine] != wanted[theirs]], minlength=len(rows))
        found = np.full(len(keys), -1)
        found[asked[differs == 0]] = rows[differs == 0]
        return found

    def find_one(self, key: str) -> int | None:
        """Return the row of `key`, None where it is not in the table."""
        content = key.encode(errors="surrogatepass")
        first, behind = self._buckets.span(zlib.crc32(content) >> self._shift)
        for row in self._order[first:behind].tolist():
            start, end = self._offsets.span(row)
            if end - start == len(content) and self._bytes[start:end].tobytes() == content:
                return int(row)
        return None

    def twice(self, rows: Rows) -> str | None:
        """Return a string that two of `rows` have, None where all are different."""
        seen: set[str] = set()
        for start in range(0, len(rows), BLOCK):
            for key in self.many(rows[start : start + BLOCK]):
                if key in seen:
                    return key
                seen.add(key)
        return None


def _hashes(keys: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    return np.array([zlib.crc32(key.encode()) for key in keys], np.uint64)


def _shift(rows: int) -> int:
    """Return how many lower bits of a hash its bucket leaves out, in a table of `rows`."""
    return HASH_BITS - max(0, (rows // BUCKET).bit_length() - 1)
