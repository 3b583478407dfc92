"""Whether a memory's folder holds what was written to it, and what to do where it doesn't."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.base import KIND
from pipeline.memory.disk import write_whole
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.flat import LIST, Flat
from pipeline.memory.journal import Journal
from pipeline.memory.lock import FolderLock
from pipeline.memory.records import START, DamageError, records
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory


@dataclass(frozen=True)
class Contents:
    """What a memory's folder holds."""

    facts: int
    entities: int
    relations: int
    slots: int
    """Slots with a vector of their own."""
    generation: int
    """Snapshots that were written before this one, and this one; 0 for a plain snapshot."""
    snapshot_bytes: int
    journal_bytes: int
    changes: int
    """Records of the journal."""
    dated: int
    """Facts with a date or a source, those among them that don't hold now."""
    date: str
    """Date that the facts which hold are those of; empty where none is dated."""


def verify(folder: Path, settings: Memory, encoder: TextEncoder) -> Contents:
    """Read everything in `folder` and return what it holds.

    Raises:
        DamageError: the journal holds what was never written to it.
        UserError: another file is missing or damaged; the text names it.
    """
    generation = generations.current(folder)
    for name, checksum in generation.files.items() if generation else ():
        file = generation.base(folder) / name if generation else folder
        try:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UserError(
                f"{file}: can't be read ({error.strerror}); restore the folder from a copy of it"
            ) from error
        if found != checksum:
            raise UserError(f"{file}: damaged (its checksum differs); restore the folder from a copy of it")
    base = generation.base(folder) if generation else folder
    if (base / LIST).exists():
        Flat.open(base, KIND).check()
    return contents(folder, KnowledgeMemory.open(folder, settings, encoder))


def contents(folder: Path, memory: KnowledgeMemory) -> Contents:
    """Return what `folder` holds, which `memory` was opened from."""
    generation = generations.current(folder)
    base = generation.base(folder) if generation else folder
    journal = generation.journal(folder) if generation else None
    return Contents(
        len(memory),
        len(memory.entities),
        len(memory.relations),
        len(memory.slots),
        generation.number if generation else 0,
        sum(file.stat().st_size for file in base.iterdir() if file.is_file()),
        journal.stat().st_size if journal else 0,
        sum(1 for _ in records(journal)) if journal else 0,
        len(memory.chronicle),
        memory.chronicle.on,
    )


def repair(folder: Path, encoder: TextEncoder) -> Path | None:
    """Keep what stands before the damage in the journal of `folder`; return where the rest is set aside.

    Returns:
        A new file beside the journal, None where nothing is damaged.

    Raises:
        UserError: another process writes to the folder, another file is damaged, or there is no room.
    """
    lock = FolderLock(folder)
    try:
        generation = generations.current(folder)
        try:
            generations.read(folder, encoder, "factored")
        except DamageError as error:
            if generation is None or error.file != generation.journal(folder):
                raise
            return _cut(error.file, error.offset, generation.first)
        return None
    except OSError as error:
        raise UserError(f"{folder}: can't be repaired ({error}); free some space and try again") from error
    finally:
        lock.close()


def _cut(journal: Path, offset: int, first: int) -> Path:
    """Move what stands behind byte `offset` to a file of its own."""
    name = f"{journal.name}.damaged-{offset}"
    taken = len(list(journal.parent.glob(f"{name}*")))
    aside = journal.with_name(f"{name}-{taken}" if taken else name)
    with journal.open("rb") as stream:
        stream.seek(offset)
        write_whole(aside, stream.read())
    if offset < START.size:
        Journal.create(journal, first)
    else:
        with journal.open("rb+") as stream:
            stream.truncate(offset)
            os.fsync(stream.fileno())
    return aside
