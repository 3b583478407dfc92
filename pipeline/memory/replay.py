"""What the records of a journal come to, checked before anything of it is carried out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import UserError
from pipeline.memory.changes import Change, decoded, folded
from pipeline.memory.names import Names
from pipeline.memory.records import END, DamageError, Record, records
from pipeline.memory.triples import MANY


def journaled(
    file: Path,
    first: int,
    names: Mapping[str, Names],
    after: Record | None = None,
    until: int = END,
) -> tuple[Change, Record | None]:
    """Return what changed by the records of a journal, and the last of them.

    Args:
        file: the journal.
        first: number of its first record.
        names: those that are known before.
        after: the record behind which to begin; None begins with the first one.
        until: byte at which to end; the end of the file by default.

    Raises:
        DamageError: a record is no change, or changes what isn't there.
        UserError: the journal is missing.
    """
    read, damage = _read(file, after, until)
    if read and after is None and read[0][0].number != first:
        raise DamageError(file, 0, f"begins with record {read[0][0].number}, not {first}")
    ends = {end for _, change in read for fact in change.written for end in (fact[0], fact[2])}
    if len(ends) > MANY:
        names["entities"].look_up(list(ends))
    _check(read, names, file)
    if damage is not None:
        raise damage
    last = read[-1][0] if read else after
    return folded(change for _, change in read), last


def _check(read: Sequence[tuple[Record, Change]], names: Mapping[str, Names], file: Path) -> None:
    """Raise DamageError where a change is of names that aren't known, or takes known ones for new."""
    later: dict[str, set[str]] = {kind: set() for kind in names}

    def known(kind: str, key: str) -> bool:
        return key in later[kind] or key in names[kind]

    for record, change in read:
        try:
            for kind, new in change.new.items():
                if len(set(new.keys)) < len(new.keys) or any(known(kind, key) for key in new.keys):
                    raise ValueError(f"{kind} that are known come as new")
                later[kind].update(new.keys)
            for head, relation, tail in [*change.written, *change.removed, *change.dated]:
                if not (known("entities", head) and known("entities", tail) and known("relations", relation)):
                    raise ValueError(f"{head} | {relation} | {tail} holds an unknown name")
        except (ValueError, KeyError) as error:
            raise DamageError(file, record.start, f"record {record.number}: {error}") from error


def _read(
    file: Path, after: Record | None, until: int
) -> tuple[list[tuple[Record, Change]], DamageError | None]:
    """Return the records of a journal with their changes, and what ends them too early; see `journaled`.

    Raises:
        UserError: it can't be read.
    """
    found: list[tuple[Record, Change]] = []
    try:
        for record in records(file, after, until):
            try:
                change = decoded(record.payload)
                found.append((Record(record.number, record.start, record.end, b""), change))
            except (ValueError, TypeError, KeyError) as error:
                return found, DamageError(file, record.start, f"record {record.number}: {error}")
    except DamageError as error:
        return found, error
    except OSError as error:
        raise UserError(
            f"{file}: can't be read ({error.strerror}); restore the folder from a copy of it"
        ) from error
    return found, None
