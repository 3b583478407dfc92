"""Reads the files of data sets. Every error names the file, the line and the remedy.

A data set lies in a folder of `data_root()`, or in an archive (.zip, .tar.gz) beside which the folder would
lie. Plain files may be gzipped.
"""

import csv
import gzip
import json
import logging
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.config import ROOT, UserError

ARCHIVES = (".zip", ".tar.gz")
DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
AGAIN = "fetch it again from its publisher"
TIMEOUT = 30
"""Seconds without an answer after which a download counts as impossible."""

logger = logging.getLogger(__name__)


def data_root() -> Path:
    """Return the folder of local data sets: `KG_DATA_ROOT`, or data/external/ of the project."""
    return Path(os.environ.get("KG_DATA_ROOT") or ROOT / "data" / "external").expanduser()


def located(name: str, remedy: str) -> Path:
    """Return the folder or archive `name` below the data root.

    Raises:
        UserError: there is neither; the text lists the paths that were tried and ends with `remedy`.
    """
    tried = [data_root() / f"{name}{suffix}" for suffix in ("", *ARCHIVES)]
    for path in tried:
        if path.exists():
            return path
    raise UserError(
        f"{tried[0]}: not found, nor {tried[1].name} or {tried[2].name}; {remedy}, "
        "or set KG_DATA_ROOT to the folder that holds it"
    )


def lines(path: Path, remedy: str = AGAIN) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line of the UTF-8 file `path`, without its line end.

    Only a line feed, alone or after a carriage return, ends a line: labels hold other characters at which
    Python's `splitlines` would split.

    Raises:
        UserError: the file is missing, empty, not UTF-8, or its gzip stream is damaged.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: not found; put the file there, or set KG_DATA_ROOT to the folder of data sets"
        )
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                yield number, decoded(raw, f"{path}, line {number}").rstrip("\r\n")
    except DAMAGE as error:
        raise UserError(f"{path}: damaged after line {number} ({error}); {remedy}") from error
    if number == 0:
        raise UserError(f"{path}: empty; {remedy}")


def decoded(raw: bytes, where: str) -> str:
    """Return `raw` as text.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {error.start}); convert the file to UTF-8, or {AGAIN}"
        ) from error


def tab_separated(path: Path, columns: Sequence[str], header: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the `columns` of each row of a tab-separated file without quoting.

    With a `header` the columns are found by name, so that a file may hold more of them; without one every
    line must have exactly these.

    Raises:
        UserError: as `lines`; a column is missing, a row has too few or too many, or there is no row.
    """
    rows = lines(path)
    places = list(range(len(columns)))
    width = len(columns)
    if header:
        names = next(rows)[1].split("\t")
        places = [place_of(column, names, path) for column in columns]
        width = len(names)
    number = 0
    for number, line in rows:
        cells = line.split("\t")
        if len(cells) != width:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns instead of {width} "
                f"(tab separated: {', '.join(columns)}); correct the line, or {AGAIN}"
            )
        yield number, [cells[place] for place in places] if header else cells
    if number == 0:
        raise UserError(f"{path}: holds a header and no rows; {AGAIN}")


def place_of(column: str, names: Sequence[str], where: object) -> int:
    """Return the place of `column` among the header's `names`.

    Raises:
        UserError: it is not there.
    """
    if column not in names:
        raise UserError(
            f"{where}, line 1: lacks the column {column!r} (found {', '.join(names)}); "
            f"add the header line that its publisher uses, or {AGAIN}"
        )
    return names.index(column)


def comma_separated(content: bytes, where: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the stripped, non-empty `columns` of each row of a CSV file with a header.

    Raises:
        UserError: not UTF-8, no header, a missing column, a row of another width or with an empty cell, or
            no row at all.
    """
    reader = csv.reader(decoded(content, where).removeprefix("\ufeff").splitlines(keepends=True))
    names = next(reader, None)
    if not names:
        raise UserError(f"{where}: empty; {AGAIN}")
    places = [place_of(column, names, where) for column in columns]
    count = 0
    for row in reader:
        if not row:
            continue
        cells = [row[place].strip() for place in places] if len(row) == len(names) else []
        if not cells or not all(cells):
            raise UserError(
                f"{where}, line {reader.line_num}: {row!r} does not fill the columns {', '.join(columns)}; "
                f"correct the line (quote a cell that holds a comma), or {AGAIN}"
            )
        count += 1
        yield reader.line_num, cells
    if count == 0:
        raise UserError(f"{where}: holds a header and no rows; {AGAIN}")


def parsed_json(content: bytes | str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        UserError: it is no JSON; the text names line and column.
    """
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}); {AGAIN}") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}, {at}: no JSON ({error.msg}); {AGAIN}") from error


def members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of a folder, .zip or .tar.gz that end in `suffix`, by name.

    Hidden files, which some archivers add beside each file, are passed over.

    Raises:
        UserError: the archive is damaged, or nothing in it ends in `suffix`.
    """
    found = False
    try:
        for name, content in sorted(_members(path)):
            if name.endswith(suffix) and not Path(name).name.startswith("."):
                found = True
                yield name, content
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged ({reason}); {AGAIN}") from error
    if not found:
        raise UserError(f"{path}: holds no {suffix} file; {AGAIN}")


def _members(path: Path) -> Iterable[tuple[str, bytes]]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                yield file.relative_to(path).as_posix(), file.read_bytes()
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        with tarfile.open(path, "r:*") as tape:
            for member in tape:
                content = tape.extractfile(member)
                if content is not None:
                    yield member.name, content.read()


def download(url: str, path: Path, remedy: str) -> Path:
    """Return `path`, fetched from `url` unless it exists; a download that breaks off leaves nothing behind.

    Raises:
        UserError: it can't be fetched; the text ends with `remedy`.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.info("fetching %s", url)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as part:
        try:
            _fetch(url, part)
        except (OSError, ValueError) as error:
            Path(part.name).unlink()
            raise UserError(f"{path}: not found, and {url} can't be fetched ({error}); {remedy}") from error
    return Path(part.name).replace(path)


def _fetch(url: str, part: IO[bytes]) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        shutil.copyfileobj(answer, part)
