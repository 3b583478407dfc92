import zipfile
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.packages import Wheel, wheel
from tests.worlds import pack

NAME = "thing-1-py3-none-any.whl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KG_CACHE", str(tmp_path))
    return tmp_path


def test_a_file_in_the_cache_is_read_without_a_download(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/b.json": "{}", "thing/a.json": "[]", "thing/c.txt": "é"})
    found = wheel(NAME, digest)
    assert found.read("thing/c.txt") == "é".encode()
    assert found.members("thing/", ".json") == ["thing/a.json", "thing/b.json"]


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KG_CACHE", raising=False)
    assert cache() == Path.home() / ".cache" / "living-memory" / "packages"


def test_another_file_than_the_pinned_one_is_refused(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/a.txt": "a"})
    wrong = "0" * 64
    with pytest.raises(
        UserError, match=rf"{NAME}: its SHA-256 is {digest}, but conf/data pins {wrong}; delete"
    ):
        wheel(NAME, wrong)


def test_a_missing_member_is_named(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/a.txt": "a"})
    with pytest.raises(UserError, match=rf"{NAME}: holds no thing/b\.txt; pin a release"):
        wheel(NAME, digest).read("thing/b.txt")
    with pytest.raises(UserError, match=rf"{NAME}: holds no thing/\*\.json; pin a release"):
        wheel(NAME, digest).members("thing/", ".json")


def test_a_damaged_archive_is_named(folder: Path) -> None:
    path = folder / NAME
    path.write_bytes(b"PK no archive")
    for read in (lambda: Wheel(path).read("a"), lambda: Wheel(path).members("a", "b")):
        with pytest.raises(UserError, match=rf"{NAME}: damaged .*; delete it and run again"):
            read()


def test_a_damaged_member_is_named(folder: Path) -> None:
    path = folder / NAME
    pack(path, {"thing/a.txt": "long enough to be compressed " * 99})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("thing/a.txt").header_offset + 30 + len("thing/a.txt")
    content = bytearray(path.read_bytes())
    content[start + 3 : start + 9] = b"\xff" * 6
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{NAME}: damaged"):
        Wheel(path).read("thing/a.txt")


def test_what_pip_can_not_get_says_how_to_supply_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"(?s)thing-1-.*not in .*pip download thing==1.*failed.*put the file into"
    ):
        wheel(NAME, "0" * 64)
    assert list(folder.iterdir()) == []


def test_a_name_that_is_no_wheels_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'thing\.zip' is not the file name of a wheel"):
        wheel("thing.zip", "0" * 64)


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file: can't be written .*; set KG_CACHE"):
        wheel(NAME, "0" * 64)
