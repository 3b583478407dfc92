import gzip
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ROOT, UserError
from pipeline.kg.sources import files

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), max_size=8)


def test_data_root_is_the_projects_own_unless_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KG_DATA_ROOT", raising=False)
    assert files.data_root() == ROOT / "data" / "external"
    monkeypatch.setenv("KG_DATA_ROOT", "/somewhere")
    assert files.data_root() == Path("/somewhere")


def test_an_archive_stands_for_its_folder(root: Path, pack) -> None:
    pack("set.tar.gz", {"a/one.txt": "1", "a/._one.txt": "junk", "a/two.csv": "2"})
    assert list(files.members(files.located("set", "put it there"), ".txt")) == [("a/one.txt", b"1")]
    pack("set.zip", {"one.txt": "zip"})
    assert list(files.members(files.located("set", "put it there"), ".txt")) == [("one.txt", b"zip")]
    (root / "set").mkdir()
    (root / "set" / "one.txt").write_text("folder")
    assert list(files.members(files.located("set", "put it there"), ".txt")) == [("one.txt", b"folder")]


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1))
def test_tab_separated_rows_come_back_whole(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.tsv.gz"
    path.write_bytes(
        gzip.compress("".join("\t".join(row) + "\n" for row in [("a", "b", "c"), *rows]).encode())
    )
    read = list(files.tab_separated(path, ("c", "a"), header=True))
    assert [cells for _, cells in read] == [[c, a] for a, _, c in rows]
    assert [number for number, _ in read] == list(range(2, len(rows) + 2))
    assert [tuple(cells) for _, cells in files.tab_separated(path, "abc", header=False)][1:] == rows


def test_quotes_and_other_line_ends_belong_to_the_text(root: Path, write) -> None:
    path = write("rows.tsv", 'a\tb\r\n"x\ty\u2028z\n')
    assert list(files.tab_separated(path, ("a", "b"), header=True)) == [(2, ['"x', "y\u2028z"])]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"a\tb\n", "holds a header and no rows"),
        (b"a\tc\nx\ty\n", r"line 1: lacks the column 'b' \(found a, c\)"),
        (b"a\tb\nx\ty\nx\n", "line 3: 1 columns instead of 2"),
        (b"a\tb\nx\t\xff\n", "line 2: not UTF-8"),
    ],
)
def test_bad_tables_name_file_line_and_remedy(write, content: bytes, expected: str) -> None:
    path = write("bad.tsv", content)
    with pytest.raises(UserError, match=expected) as caught:
        list(files.tab_separated(path, ("a", "b"), header=True))
    assert str(path) in str(caught.value)
    assert "fetch it again" in str(caught.value)


def test_a_truncated_gzip_file_is_named_with_the_last_good_line(write) -> None:
    path = write("cut.tsv.gz", "".join(f"{i}\tvalue {i}\n" for i in range(50_000)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.tsv\.gz: damaged after line [1-9]\d+ .*fetch it again"):
        list(files.tab_separated(path, ("a", "b"), header=False))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"a,b\n", "no rows"),
        (b"a\nx\n", "lacks the column 'b'"),
        (b"a,b\nx,y\nx,y,z\n", "line 3"),
        (b"a,b\nx,\n", "line 2"),
        (b"a,b\n\xff,y\n", "not UTF-8"),
    ],
)
def test_bad_comma_separated_files(content: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        list(files.comma_separated(content, "probes.csv", ("a", "b")))


def test_comma_separated_cells_may_be_quoted_and_the_file_may_start_with_a_mark() -> None:
    content = '\ufeffa,b\n"x, the first", y \n\n'.encode()
    assert list(files.comma_separated(content, "probes.csv", ("b", "a"))) == [(2, ["y", "x, the first"])]


@pytest.mark.parametrize(
    ("content", "expected"), [(b"{", "line 1, column 2: no JSON"), (b'"\xff"', "not UTF-8")]
)
def test_bad_json(content: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=f"set.json.*{expected}"):
        files.parsed_json(content, "set.json")


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_damaged_archives_are_named(write, name: str) -> None:
    path = write(name.removesuffix(".gz"), b"no archive")
    path = path.rename(path.parent / name)
    with pytest.raises(UserError, match=rf"{name}: damaged .*fetch it again"):
        list(files.members(path, ".json"))


def test_archives_without_such_files_and_missing_ones_are_named(root: Path, pack) -> None:
    with pytest.raises(UserError, match=r"holds no \.json file"):
        list(files.members(pack("set.zip", {"a.txt": ""}), ".json"))
    with pytest.raises(
        UserError, match=r"other: not found, nor other.zip or other.tar.gz; put it there.*KG_DATA_ROOT"
    ):
        files.located("other", "put it there")
    with pytest.raises(UserError, match="not found; put the file there, or set KG_DATA_ROOT"):
        list(files.lines(root / "missing.txt"))


def test_a_download_is_kept_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    origin = tmp_path / "origin.zip"
    origin.write_bytes(b"content")
    path = tmp_path / "deep" / "copy.zip"
    assert files.download(origin.as_uri(), path, "put it there").read_bytes() == b"content"
    origin.unlink()
    assert files.download(origin.as_uri(), path, "put it there").read_bytes() == b"content"
    with pytest.raises(
        UserError, match=r"other.zip: not found, and file:.* can't be fetched .*; put it there"
    ):
        files.download(origin.as_uri(), path.with_name("other.zip"), "put it there")
    assert [file.name for file in path.parent.iterdir()] == ["copy.zip"]


def test_tar_files_are_read_whatever_packs_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    with tarfile.open(tmp_path / "set.tar", "w") as tape:
        tape.add(tmp_path / "a.txt", "a.txt")
    assert list(files.members(tmp_path / "set.tar", ".txt")) == [("a.txt", b"1")]
