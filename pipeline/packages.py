"""Reads files out of pinned wheels, without installing or importing what is in them.

A wheel is named by its file name (`thing-1.0-py3-none-any.whl`) or its release (`thing==1.0`), and pinned
by its SHA-256, so that a configuration means the same bytes on every machine and in every year. Wheels are
kept below the cache folder, in `packages`, where a file put by hand serves as well as a downloaded one.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
        with self._archive() as archive:
            try:
                return archive.read(member)
            except KeyError as error:
                raise self._lacks(member) from error

    def members(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files below `folder` that end in `suffix`, sorted.

        Raises:
            UserError: the wheel is damaged or holds no such file.
        """
        with self._archive() as archive:
            names = archive.namelist()
        found = sorted(name for name in names if name.startswith(folder) and name.endswith(suffix))
        if not found:
            raise self._lacks(f"{folder}*{suffix}")
        return found

    def unpack(self, member: str, folder: Path) -> None:
        """Copy the file `member`, or all files below the folder `member`, into `folder`.

        Raises:
            UserError: the wheel is damaged or holds no such file.
        """
        inside = member.rstrip("/") + "/"
        with self._archive() as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            taken = {name: name.removeprefix(inside) for name in names if name.startswith(inside)}
            if member in names:
                taken[member] = Path(member).name
            if not taken:
                raise self._lacks(member)
            for name, place in taken.items():
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as stream, (folder / place).open("wb") as out:
                    shutil.copyfileobj(stream, out)

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.path}: damaged ({error}); delete it and run again") from error

    def _lacks(self, what: str) -> UserError:
        return UserError(f"{self.path.name}: holds no {what}; pin a release that does in conf/")


def cache_folder() -> Path:
    """Return the folder that keeps what was downloaded."""
    return Path(os.environ.get("KG_CACHE") or Path.home() / ".cache" / "living-memory")


def wheel(name: str, digest: str) -> Wheel:
    """Return the wheel `name`, downloading it where the cache lacks it.

    Args:
        name: file name of the wheel, or its release as `PROJECT==VERSION`.
        digest: its SHA-256 in hexadecimal.

    Raises:
        UserError: it can't be had, or its SHA-256 is not `digest`.
    """
    project, version = _release(name)
    folder = cache_folder() / "packages"
    known = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    held = [path for path in known if _is_release(path.name, project, version)]
    found = {path: _sha256(path) for path in held}
    for path in held:
        if found[path] == digest:
            return Wheel(path)
    if held:
        raise UserError(
            f"{held[0]}: its SHA-256 is {found[held[0]]}, but conf/ pins {digest}; "
            "delete the file and run again, or pin the release that you mean"
        )
    return Wheel(_download(f"{project}=={version}", digest, folder))


def _release(name: str) -> tuple[str, str]:
    """Return project and version of a wheel's file name or of `PROJECT==VERSION`."""
    match = re.fullmatch(r"([\w.-]+)==([\w.+!]+)", name) or re.fullmatch(r"([^-]+)-([^-]+)-.+\.whl", name)
    if not match:
        raise UserError(f"conf/: {name!r} is neither the file name of a wheel (project-version-….whl) "
                        "nor a release (project==version)")  # fmt: skip
    return match[1], match[2]


def _is_release(file: str, project: str, version: str) -> bool:
    """Say whether a wheel is of that release; letter case and -, _ and . don't count in a project's name."""
    parts = file.split("-")
    same = [re.sub(r"[-_.]+", "_", text).lower() for text in (parts[0], project)]
    return same[0] == same[1] and parts[1:2] == [version]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(release: str, digest: str, folder: Path) -> Path:
    # Only data is read, so the Python that the release asks for doesn't matter.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"]
    log.info("downloading %s", release)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The move from a folder beside it is atomic: two runs at once can't read half a file.
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", fresh, release]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            for file in Path(fresh).glob("*.whl"):
                got = _sha256(file)
                if got != digest:
                    raise UserError(
                        f"{release}: `pip download` gave {file.name} with SHA-256 {got}, but conf/ pins "
                        f"{digest}; pin the release that you mean, or put the pinned one into {folder}"
                    )
                return file.replace(folder / file.name)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error}); set KG_CACHE to a folder that can") from error
    said = (done.stderr.strip() or "it gave no wheel").splitlines()[-1]
    raise UserError(
        f"{release}: not in {folder}, and `pip download {release}` failed ({said}); "
        f"put the wheel with SHA-256 {digest} into that folder by hand, or set KG_CACHE to a folder "
        "whose subfolder `packages` holds it"
    )
