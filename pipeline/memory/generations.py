"""A memory's folder: a snapshot, a journal of what changed since, and a manifest that says which.

    manifest.json        the generation that counts, the encoder, the checksums of the snapshot's files
    base-000003/         its snapshot: in the factored layout a base, see `pipeline.memory.base`
    journal-000003       what changed since
    .merge-000004/       where a merge writes the next one, beside the writer
    lock                 number of the process that writes

A new generation is written beside the old one and counts once the manifest is replaced, which is one rename.
A plain snapshot, as the stage `index` writes it, is a memory too; DVC knows its files by their checksums, so
it is only read, and a folder to write to begins with a copy of it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from pipeline.config import UserError
from pipeline.memory import snapshot
from pipeline.memory.changes import Change
from pipeline.memory.chronicle import Chronicle
from pipeline.memory.disk import remove, sync_folder, write_whole
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.flat import LIST
from pipeline.memory.folding import loaded, opened
from pipeline.memory.journal import Journal
from pipeline.memory.lock import await_left
from pipeline.memory.names import Names
from pipeline.memory.records import END, Record, records
from pipeline.memory.replay import journaled
from pipeline.memory.triples import Triples

MANIFEST = "manifest.json"
VERSION = 2
"""Of manifests. Version 1 knew no dates; its folders are read, and become version 2 to be written to."""
WORK = ".merge-"
"""What the names of folders begin with that merges write in."""
PATIENCE = 10.0
"""Seconds that the process of a merge whose writer died has to end."""
OURS = re.compile(r"(base|journal)-(\d{6,})")


@dataclass(frozen=True)
class Generation:
    """One state of a memory's folder, as its manifest names it."""

    version: int
    number: int
    first: int
    """Number of the first record of its journal."""
    encoder: str
    """Name of the encoder that the vectors are from."""
    files: dict[str, str]
    """SHA-256 of each file of the snapshot."""

    def later(self, first: int) -> "Generation":
        """Return the next one, whose snapshot isn't there yet.

        Args:
            first: number of the first record of its journal.
        """
        return Generation(VERSION, self.number + 1, first, self.encoder, {})

    def work(self, folder: Path) -> Path:
        """Return the folder that the snapshot is written in by a merge beside the writer."""
        return folder / f"{WORK}{self.number:06d}"

    def base(self, folder: Path) -> Path:
        """Return the folder of the snapshot."""
        return folder / f"base-{self.number:06d}"

    def journal(self, folder: Path) -> Path:
        """Return the file of the journal."""
        return folder / f"journal-{self.number:06d}"

    def remove(self, folder: Path) -> None:
        """Remove both, once another one counts."""
        for path in (self.base(folder), self.journal(folder)):
            remove(path)


def current(folder: Path) -> Generation | None:
    """Return the generation that counts in `folder`, None where it isn't written to by changes.

    Raises:
        UserError: the manifest can't be read; the text says what to do.
    """
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values["version"] if isinstance(values, dict) else 0
        if not isinstance(version, int) or version < 1:
            raise ValueError("of no version")
        if version > VERSION:
            raise UserError(f"{file}: written by a later version of this program ({version}); use that one")
        generation = Generation(**values)
        plain = int(generation.number), int(generation.first), str(generation.encoder), dict(generation.files)
        return Generation(version, *plain)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        left = sorted(path.name for path in folder.glob("base-*"))
        raise UserError(
            f"{file}: damaged ({error}); restore it from a copy of the folder (it holds {', '.join(left)})"
        ) from error


def upgraded(folder: Path) -> Generation | None:
    """Return `current`, once the manifest in `folder`, which is locked, is of the present version.

    Programs that don't know the version refuse the folder from then on.

    Raises:
        OSError: it can't be written.
        UserError: as `current`.
    """
    generation = current(folder)
    if generation is None or generation.version == VERSION:
        return generation
    _write(folder, replace(generation, version=VERSION))
    return current(folder)


def _write(folder: Path, generation: Generation) -> None:
    write_whole(folder / MANIFEST, json.dumps(asdict(generation), indent=1).encode() + b"\n")


class Contents(NamedTuple):
    """What a folder holds."""

    names: dict[str, Names]
    """Of the snapshot, by kind."""
    facts: Triples
    """Of the snapshot."""
    chronicle: Chronicle
    """Of the snapshot."""
    since: Change
    """What changed since."""
    generation: Generation | None
    """None where it is a snapshot or a base itself."""
    last: Record | None
    """The last of the changes."""


def read(folder: Path, encoder: TextEncoder, layout: str, until: int = END) -> Contents:
    """Return what `folder` holds.

    Args:
        folder: of a memory, or a snapshot or base itself.
        encoder: for names that are new.
        layout: facts of a base stay on disk in the factored one, and are taken into RAM in the other.
        until: byte of the journal at which to end; all of it is read by default.

    Raises:
        DamageError: the journal holds what was never written to it.
        UserError: another file is missing or damaged, or another encoder is needed.
    """
    generation = current(folder)
    if generation is None:
        return Contents(*_snapshot(folder, encoder, layout), Change(), None, None)
    if generation.encoder != encoder.name:
        raise UserError(
            f"{folder}: its vectors are from the encoder {generation.encoder}, not {encoder.name}; choose "
            "that one (`encoder` in params.yaml), or import the facts into a new folder"
        )
    base = generation.base(folder)
    try:
        held = _snapshot(base, encoder, layout)
    except UserError as error:
        if _is_base(base):
            raise
        reason = str(error).partition("(")[2].rpartition(";")[0].removesuffix(")")
        raise UserError(f"{base}: damaged ({reason}); restore the folder from a copy of it") from error
    since, last = journaled(generation.journal(folder), generation.first, held[0], until=until)
    return Contents(*held, since, generation, last)


def _snapshot(folder: Path, encoder: TextEncoder, layout: str) -> tuple[dict[str, Names], Triples, Chronicle]:
    """Return names, facts and their periods, of a snapshot or a base."""
    if _is_base(folder):
        return opened(folder, encoder) if layout == "factored" else loaded(folder, encoder)
    names = {kind: Names(encoder) for kind in ("entities", "relations", "slots")}
    return names, *snapshot.read(folder, names)


def _is_base(folder: Path) -> bool:
    """Return whether `folder` holds a base, maybe without its list."""
    return (folder / LIST).exists() or any(folder.glob("*.bin"))


def begin(folder: Path, number: int, first: int, encoder: str, write: Callable[[Path], None]) -> Generation:
    """Write generation `number` beside the present one and let it count from now on.

    Args:
        folder: of the memory; it is locked.
        number: larger than every number before.
        first: number of the first record of its journal.
        encoder: name of the encoder that the vectors are from.
        write: writes the snapshot to the folder that it is given.

    Raises:
        UserError: there is no room, or the disk fails; the generation before still counts.
    """
    planned = Generation(VERSION, number, first, encoder, {})
    base = planned.base(folder)
    with counting(folder, planned):
        shutil.rmtree(base, ignore_errors=True)
        write(base)
        generation = replace(planned, files=checksums(base))
        sync_folder(base)
        Journal.create(planned.journal(folder), first)
        _write(folder, generation)
    return generation


def follow(folder: Path, generation: Generation, changes: bytes) -> None:
    """Let `generation`, whose snapshot is there, count from now on.

    Args:
        folder: of the memory; it is locked.
        generation: the next one.
        changes: the records of its journal, as they stand in the one before.

    Raises:
        OSError: there is no room, or the disk fails; then maybe the generation before still counts.
    """
    sync_folder(folder)
    Journal.create(generation.journal(folder), generation.first, changes)
    _write(folder, generation)


@contextmanager
def counting(folder: Path, generation: Generation) -> Iterator[None]:
    """Remove what there is of `generation` if it doesn't count by the end of this block.

    Raises:
        UserError: instead of the errors of a disk.
    """
    try:
        yield
    except (OSError, SafetensorError, UserError) as error:
        present = current(folder)
        if present is None or present.number != generation.number:
            shutil.rmtree(generation.base(folder), ignore_errors=True)
            generation.journal(folder).unlink(missing_ok=True)
        reason = error.__cause__ or error
        raise UserError(
            f"{folder}: a new snapshot can't be written ({reason}), so it is as it was; free as much space "
            "as the folder takes and try again"
        ) from error


def checksums(base: Path) -> dict[str, str]:
    """Bring the files of `base` to disk and return the SHA-256 of each, or of the list of its arrays."""
    found = {}
    listed = base / LIST  # which holds their checksums, and was written after them
    for file in [listed] if listed.exists() else sorted(base.iterdir()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def clean(folder: Path) -> None:
    """Remove what interrupted merges left in `folder`, which is locked.

    Raises:
        UserError: without a manifest there are changes that nothing else holds.
    """
    generation = current(folder)
    left = [(path, match) for path in folder.iterdir() if (match := OURS.fullmatch(path.name))]
    for path, match in left:
        changed = int(match[2]) > 1 or (match[1] == "journal" and any(True for _ in records(path)))
        if generation is None and changed:
            raise UserError(
                f"{folder / MANIFEST}: missing, though {path.name} holds changes; restore it from a copy of "
                "the folder, or name another folder"
            )
    for work in folder.glob(f"{WORK}*"):
        await_left(work, PATIENCE)  # its process ends by itself, but may not have done so yet
        remove(work)
    sync_folder(folder)  # what counts must be on disk before anything else goes
    for path, match in left:
        if generation is None or int(match[2]) != generation.number:
            remove(path)
    for part in [path for name in (MANIFEST, "journal-*", "base-*") for path in folder.glob(f".{name}.part")]:
        remove(part)
