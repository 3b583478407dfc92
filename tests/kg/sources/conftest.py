import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of the test's own."""
    folder = tmp_path / "data_root"
    folder.mkdir()
    monkeypatch.setenv("KG_DATA_ROOT", str(folder))
    return folder


@pytest.fixture
def write(root: Path) -> Write:
    """Writes a file below the data root, gzipped where its name says so."""

    def to(name: str, content: str | bytes) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        return path

    return to


@pytest.fixture
def pack(root: Path) -> Callable[[str, Mapping[str, str]], Path]:
    """Writes a .zip or .tar.gz below the data root."""

    def to(name: str, files: Mapping[str, str]) -> Path:
        path = root / name
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for member, text in files.items():
                    archive.writestr(member, text)
            return path
        with tarfile.open(path, "w:gz") as tape:
            for member, text in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(text.encode())
                tape.addfile(info, io.BytesIO(text.encode()))
        return path

    return to
