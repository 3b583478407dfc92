"""Numbers and sorts more facts and texts than fit into memory as Python objects.

Keys are held as fixed-width bytes (a dozen bytes each), a fact as one 64-bit number, and texts wait on disk,
one file for each range of ids, until their row group is written.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from pipeline.config import UserError
from pipeline.kg.facts import Ids

Keys = NDArray[np.bytes_]

BLOCK = 32 << 20
"""Bytes of a file that are parsed at once."""
BATCH = 100_000
"""Texts whose ids are looked up at once."""


def blocks(path: Path, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the tab-separated file `path`, which has no header, as text columns.

    Raises:
        UserError: the file is missing or empty, a row has another number of columns, or is not UTF-8.
    """
    if not path.is_file() or path.stat().st_size == 0:
        what = "empty" if path.is_file() else "not found"
        raise UserError(f"{path}: {what}; fetch it again from its publisher")
    wrong: list[pacsv.InvalidRow] = []

    def stop(row: pacsv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    try:
        yield from pacsv.open_csv(
            path,
            pacsv.ReadOptions(column_names=columns, block_size=BLOCK, use_threads=False),
            pacsv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=stop
            ),
            pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        if wrong:
            row = wrong[0]
            raise UserError(
                f"{path}, line {row.number}: {row.actual_columns} columns instead of {row.expected_columns} "
                f"(tab separated: {', '.join(columns)}); correct the line, or fetch the file again"
            ) from error
        raise UserError(f"{path}: damaged ({error}); fetch it again from its publisher") from error


def fixed_width(texts: pa.Array) -> Keys:
    """Return ASCII `texts` as an array of bytes, each as wide as the longest: [n]."""
    if len(texts) == 0:
        return np.empty(0, dtype="S1")
    width = max(1, pc.max(pc.binary_length(texts)).as_py())
    padded = pc.ascii_rpad(texts, width, padding="\0").cast(pa.binary()).cast(pa.binary(width))
    return np.frombuffer(
        padded.buffers()[1], dtype=f"S{width}", count=len(texts), offset=padded.offset * width
    )


def texts(keys: Keys) -> pa.Array:
    """Return `keys` as text: [n]."""
    return pa.array(keys.astype(str))


def places(keys: Keys, wanted: Keys) -> Ids:
    """Return where each of `wanted` stands in the sorted `keys`, -1 where it does not: [n]."""
    found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[found] == wanted, found, -1)


def numbered(column: pa.Array, keys: Keys) -> Ids:
    """Return the ids of the texts of `column`, which looks each distinct one up once: [n]."""
    encoded = column.dictionary_encode()
    ids = places(keys, fixed_width(encoded.dictionary))
    found: Ids = ids[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


class Distinct:
    """Collects the distinct keys of many blocks; what waits to be merged is bounded by what was merged."""

    def __init__(self) -> None:
        self._merged: Keys = np.empty(0, dtype="S1")
        self._waiting: list[Keys] = []

    def add(self, column: pa.Array) -> None:
        """Add the texts of `column`."""
        self._waiting.append(fixed_width(column.unique()))
        if sum(map(len, self._waiting)) > max(1 << 20, len(self._merged)):
            self.sorted()

    def sorted(self) -> Keys:
        """Return the distinct keys so far, in the order of their bytes."""
        if self._waiting:
            self._merged = np.unique(np.concatenate([self._merged, *self._waiting]))
            self._waiting.clear()
        return self._merged


@dataclass(frozen=True)
class Packing:
    """Packs (head, relation, tail, source) into one number whose order is theirs."""

    entities: int
    relations: int
    sources: int

    def __post_init__(self) -> None:
        if self.entities**2 * self.relations * self.sources >= 2**63:
            raise UserError(
                f"{self.entities} entities and {self.relations} relations are too many for one 64-bit "
                "number a fact; use a smaller data set"
            )

    def pack(self, head: Ids, relation: Ids, tail: Ids, source: int) -> Ids:
        """Return one number a fact: [n]."""
        return ((head * self.relations + relation) * self.entities + tail) * self.sources + source

    def unpack(self, packed: Ids) -> tuple[Ids, Ids, Ids, Ids]:
        """Return head, relation, tail and source of each number: [n] each."""
        rest, source = np.divmod(packed, self.sources)
        rest, tail = np.divmod(rest, self.entities)
        head, relation = np.divmod(rest, self.relations)
        return head, relation, tail, source


class Shelves:
    """Texts by id, on disk in one file for each `size` ids, so that each range can be read by itself."""

    def __init__(self, folder: Path, keys: Keys, size: int) -> None:
        self._folder = folder
        self._keys = keys
        self._size = size
        folder.mkdir(parents=True)

    def fill(self, rows: Iterable[tuple[str, str]]) -> int:
        """Put each (key, text) into its file, a text without line ends; return how many keys are unknown."""
        unknown = 0
        with ExitStack() as stack:
            files: dict[int, IO[str]] = {}
            for batch in _batches(rows, BATCH):
                ids = places(self._keys, np.array([key.encode() for key, _ in batch]))
                unknown += int((ids < 0).sum())
                for place, (_, text) in zip(ids.tolist(), batch, strict=True):
                    shelf = place // self._size
                    if place < 0:
                        continue
                    if shelf not in files:
                        file = (self._folder / str(shelf)).open("w", encoding="utf-8", newline="\n")
                        files[shelf] = stack.enter_context(file)
                    files[shelf].write(f"{place}\t{text}\n")
        return unknown

    def take(self, shelf: int) -> dict[int, str]:
        """Return the texts of a range by id, the first one where a key came twice."""
        path = self._folder / str(shelf)
        found: dict[int, str] = {}
        if path.is_file():
            with path.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    place, text = line.removesuffix("\n").split("\t", 1)
                    found.setdefault(int(place), text)
        return found


def _batches(rows: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
