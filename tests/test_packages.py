import zipfile
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.packages import Wheel, cache_folder, wheel
from tests.worlds import pack

NAME = "my_thing-1-py3-none-any.whl"
METADATA = {
    "my_thing-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-thing\nVersion: 1\n",
    "my_thing-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "my_thing-1.dist-info/RECORD": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache" / "packages"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A wheel that pip finds, and its SHA-256."""
    path = tmp_path / "served" / NAME
    digest = pack(path, METADATA | {"my_thing/a.txt": "A"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path, digest


def test_a_file_in_the_cache_is_read_without_a_download(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/b.json": "{}", "thing/a.json": "[]", "thing/c.txt": "é"})
    for name in (NAME, "my-thing==1", "My.Thing==1"):
        found = wheel(name, digest)
        assert found.read("thing/c.txt") == "é".encode()
        assert found.members("thing/", ".json") == ["thing/a.json", "thing/b.json"]


@pytest.mark.parametrize("name", [NAME, "my-thing==1"])
def test_what_the_cache_lacks_is_downloaded_once(folder: Path, served: tuple[Path, str], name: str) -> None:
    assert wheel(name, served[1]).read("my_thing/a.txt") == b"A"
    assert [file.name for file in folder.iterdir()] == [NAME]
    served[0].unlink()
    assert wheel(name, served[1]).read("my_thing/a.txt") == b"A"


def test_a_download_of_other_bytes_is_refused_and_not_kept(folder: Path, served: tuple[Path, str]) -> None:
    wrong = "0" * 64
    with pytest.raises(
        UserError,
        match=rf"my_thing==1: `pip download` gave {NAME} with SHA-256 {served[1]}, but conf/ pins {wrong};",
    ):
        wheel(NAME, wrong)
    assert list(folder.iterdir()) == []


def test_one_of_several_builds_is_known_by_its_digest(folder: Path) -> None:
    first = pack(folder / NAME, {"a": "1"})
    second = pack(folder / "my_thing-1-cp311-none-any.whl", {"a": "2"})
    pack(folder / "my_thing-2-py3-none-any.whl", {"a": "3"})
    assert wheel("my-thing==1", first).read("a") == b"1"
    assert wheel("my-thing==1", second).read("a") == b"2"


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path.home() / ".cache" / "living-memory"
    monkeypatch.setenv("KG_CACHE", "")
    assert cache_folder() == home
    monkeypatch.delenv("KG_CACHE")
    assert cache_folder() == home


def test_another_file_than_the_pinned_one_is_refused(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/a.txt": "a"})
    wrong = "0" * 64
    with pytest.raises(
        UserError, match=rf"{NAME}: its SHA-256 is {digest}, but conf/ pins {wrong}; delete the file"
    ):
        wheel(NAME, wrong)


def test_a_missing_member_is_named(folder: Path) -> None:
    digest = pack(folder / NAME, {"thing/a.txt": "a"})
    found = wheel(NAME, digest)
    with pytest.raises(UserError, match=rf"{NAME}: holds no thing/b\.txt; pin a release"):
        found.read("thing/b.txt")
    with pytest.raises(UserError, match=rf"{NAME}: holds no thing/\*\.json; pin a release"):
        found.members("thing/", ".json")
    with pytest.raises(UserError, match=rf"{NAME}: holds no thin; pin a release"):
        found.unpack("thin", folder / "out")


def test_a_file_or_a_folder_is_unpacked(folder: Path, tmp_path: Path) -> None:
    digest = pack(folder / NAME, {"thing/a.txt": "a", "thing/deep/b.txt": "b", "thing_too/c.txt": "c"})
    for member, files in {
        "thing": {"a.txt": "a", "deep/b.txt": "b"},
        "thing/": {"a.txt": "a", "deep/b.txt": "b"},
        "thing/deep": {"b.txt": "b"},
        "thing/deep/b.txt": {"b.txt": "b"},
    }.items():
        out = tmp_path / member.replace("/", "-")
        wheel(NAME, digest).unpack(member, out)
        got = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}
        assert got == files


def test_a_damaged_archive_is_named(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / NAME
    path.write_bytes(b"PK no archive")
    for read in (
        lambda: Wheel(path).read("a"),
        lambda: Wheel(path).members("a", "b"),
        lambda: Wheel(path).unpack("a", folder),
    ):
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


def test_what_pip_can_not_get_says_how_to_supply_it(folder: Path) -> None:
    digest = "0" * 64
    with pytest.raises(
        UserError,
        match=rf"(?s)my_thing==1: not in {folder}, and `pip download my_thing==1` failed \(.+\); "
        rf"put the wheel with SHA-256 {digest} into that folder by hand, or set KG_CACHE",
    ):
        wheel(NAME, digest)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["thing.zip", "thing-1.whl", "thing>=1", "==1", "thing=="])
def test_a_name_that_is_no_wheels_and_no_releases_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is neither the file name of a wheel .* nor a release"):
        wheel(name, "0" * 64)


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/packages: can't be written .*; set KG_CACHE to a folder"):
        wheel(NAME, "0" * 64)
