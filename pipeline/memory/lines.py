"""Facts from a file or a stream, one a line, as JSON objects or tab-separated columns."""

import gzip
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, cast

from pipeline.config import UserError
from pipeline.memory.dates import close
from pipeline.memory.facts import Fact
from pipeline.memory.statements import cleaned

FIELDS = tuple(field.name for field in fields(Fact))
NEEDED = FIELDS[:3]
LONGEST = 1 << 16
"""Bytes of a line at most."""
MARK = "\ufeff"
"""What some editors begin a UTF-8 file with."""


def facts(file: str, through: bool = False) -> Iterator[tuple[int, Fact | UserError]]:
    """Yield the number (from 1) and the fact of each line that isn't blank, or what is wrong with the line.

    A line is a JSON object with the fields of `Fact` where the first one begins with a brace; else columns
    separated by tabs: head, relation and tail, or what a first line with these names says.

    Args:
        file: its path, which may end in .gz, or `-` for the standard input.
        through: whether an end is the last year, month or day that a fact held in.

    Raises:
        UserError: the file can't be read.
    """
    where = "standard input" if file == "-" else file
    number = 0
    columns: tuple[str, ...] | None = None
    try:
        with ExitStack() as stack:
            for number, raw in _lines(_opened(file, stack)):
                try:
                    line = _decoded(raw)
                    if not line.strip():
                        continue
                    if columns is None:
                        columns, is_header = _columns(line)
                        if is_header:
                            continue
                    yield number, _fact(line, columns, through)
                except UserError as error:
                    yield number, UserError(f"{where}, line {number}: {error}")
    except (OSError, EOFError) as error:
        raise UserError(
            f"{where}: can't be read after line {number} ({error}); name a file of facts"
        ) from error


def from_json(raw: bytes) -> Fact:
    """Return the fact of one line of JSON.

    Raises:
        UserError: it is no JSON object with the fields of `Fact`, too long, or a date can't be.
    """
    return _fact(_decoded(raw), (), False)


def _opened(file: str, stack: ExitStack) -> IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    if file.endswith(".gz"):
        return cast(IO[bytes], stack.enter_context(gzip.open(file)))
    return stack.enter_context(Path(file).open("rb"))


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers; of an overlong one no more than its beginning is ever held."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        yield number, line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = stream.readline(LONGEST + 1)


def _decoded(raw: bytes) -> str:
    if len(raw) > LONGEST:
        raise UserError(f"longer than {LONGEST} bytes; a fact has three short names")
    try:
        return raw.decode("utf-8").removeprefix(MARK).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def _columns(line: str) -> tuple[tuple[str, ...], bool]:
    """Return the names of the columns, none for JSON, and whether `line` is a header that names them."""
    if line.lstrip().startswith("{"):
        return (), False
    names = tuple(cell.strip().casefold() for cell in line.split("\t"))
    if set(NEEDED) <= set(names):
        if not set(names) <= set(FIELDS) or len(set(names)) < len(names):
            raise UserError(f"the columns are {', '.join(names)}; there may be {', '.join(FIELDS)}")
        return names, True
    return NEEDED, False


def _fact(line: str, columns: tuple[str, ...], through: bool) -> Fact:
    """Return the fact of a line.

    Raises:
        UserError: it has another form, or a date can't be.
    """
    if columns:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise UserError(
                f"{len(cells)} columns instead of {len(columns)} (tab separated: {', '.join(columns)})"
            )
        values = dict(zip(columns, cells, strict=True))
    else:
        values = _object(line)
    given = {name: cleaned(text) for name, text in values.items() if name in NEEDED or text.strip()}
    fact = Fact(**given)
    if through and fact.end:
        try:
            fact = replace(fact, end=close(fact.end))
        except ValueError as error:
            raise UserError(f"fact {str(fact)!r}: {error}") from error
    fact.period("")
    return fact


def _object(line: str) -> dict[str, str]:
    shape = f"write an object with the texts {', '.join(NEEDED)}, and, where wanted, {', '.join(FIELDS[3:])}"
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"no JSON ({error}); {shape}") from error
    if not isinstance(values, dict) or not set(NEEDED) <= values.keys() <= set(FIELDS):
        raise UserError(f"{line[:80]!r} has other fields; {shape}")
    if not all(isinstance(text, str) for text in values.values()):
        raise UserError(f"{line[:80]!r} holds what is no text; {shape}")
    return values
