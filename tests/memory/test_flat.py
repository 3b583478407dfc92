import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import UserError
from pipeline.memory.flat import LIST, Flat, FlatWriter


def written(folder: Path) -> Flat:
    with FlatWriter(folder, "thing") as files:
        numbers, rows, none = (
            files.column("numbers", np.uint16),
            files.column("rows", np.float32, (3,)),
            files.column("none", np.int64),
        )
        for start in range(0, 100, 30):
            numbers.append(np.arange(start, min(start + 30, 100)))
            rows.append(np.full((2, 3), start))
        none.append(np.empty(0, np.int64))
        files.about["answer"] = 42
    return Flat.open(folder, "thing")


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    files = written(tmp_path / "flat")
    assert files["numbers"].tolist() == list(range(100))
    assert files["numbers"].dtype == np.uint16
    assert files["rows"].tolist() == [[start] * 3 for start in (0, 0, 30, 30, 60, 60, 90, 90)]
    assert files["none"].shape == (0,)
    assert files.number("answer") == 42
    with pytest.raises(ValueError, match="read-only"):
        files["numbers"][0] = 1
    files.check()


def test_a_changed_byte_is_found_by_the_check(tmp_path: Path) -> None:
    files = written(tmp_path)
    file = tmp_path / "rows.bin"
    content = bytearray(file.read_bytes())
    content[17] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.bin: damaged \(its checksum differs\); restore the folder"):
        files.check()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, r"arrays\.json: is of version 2, not 1; build it anew"),
        ({"kind": "other"}, r"arrays\.json: lists the arrays of a other, not of a thing"),
        ({"arrays": {"numbers": {"dtype": "<u2"}}}, r"arrays\.json: damaged \(TypeError"),
        ({"arrays": {"numbers": {"dtype": "x", "shape": [3], "crc32": 0}}}, r"arrays\.json: damaged"),
        ({"arrays": []}, r"arrays\.json: damaged"),
        ({"about": {"answer": "many"}}, r"arrays\.json: damaged"),
    ],
)
def test_a_list_that_says_something_else_is_named(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    written(tmp_path)
    told = json.loads((tmp_path / LIST).read_text())
    (tmp_path / LIST).write_text(json.dumps(told | change))
    with pytest.raises(UserError, match=text):
        Flat.open(tmp_path, "thing")
    (tmp_path / LIST).write_text("[1, 2")
    with pytest.raises(UserError, match=r"arrays\.json: damaged"):
        Flat.open(tmp_path, "thing")


def test_what_is_not_listed_is_named(tmp_path: Path) -> None:
    files = written(tmp_path)
    with pytest.raises(UserError, match="lists no array 'tails'"):
        files["tails"]
    with pytest.raises(UserError, match="says nothing of 'question'"):
        files.number("question")


def test_a_folder_whose_writing_broke_off_can_not_be_opened(tmp_path: Path) -> None:
    def broken() -> None:
        with FlatWriter(tmp_path, "thing") as files:
            files.column("numbers", np.uint16).append(np.arange(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    with pytest.raises(UserError, match=r"arrays\.json: can't be read"):
        Flat.open(tmp_path, "thing")


def test_an_array_takes_rows_of_its_shape_once(tmp_path: Path) -> None:
    with FlatWriter(tmp_path, "thing") as files:
        rows = files.column("rows", np.float32, (3,))
        with pytest.raises(ValueError, match=r"rows of shape \(2,\) in an array of rows of shape \(3,\)"):
            rows.append(np.zeros((1, 2)))
        with pytest.raises(ValueError, match="'rows' is written twice"):
            files.column("rows", np.float32)
