"""Files that are on disk whole or not at all."""

import os
import shutil
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return once the names of the files in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, content: bytes) -> None:
    """Write `file` so that it is there whole, on disk, or not at all.

    Raises:
        OSError: it can't be written; a former file of that name is as it was.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(file.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; what can't be removed stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
