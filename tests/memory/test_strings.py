from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.flat import Flat, FlatWriter
from pipeline.memory.sorting import Sorter
from pipeline.memory.strings import Keys, KeysWriter

TEXTS = st.lists(st.text(max_size=5), max_size=40)
ALIKE = ["plumless", "buckeroo"]
"""Two words of one CRC-32."""


def written(folder: Path, blocks: list[list[str]], memory: int = 10**6) -> tuple[Keys, np.ndarray]:
    with (
        FlatWriter(folder / "flat", "names") as files,
        Sorter(folder / "sorted", KeysWriter.LARGEST, memory) as sorter,
    ):
        writer = KeysWriter(files, "keys", sorter)
        for block in blocks:
            writer.append(block)
        clashes = writer.close()
    return Keys(Flat.open(folder / "flat", "names"), "keys"), clashes


@settings(max_examples=40, deadline=None)
@given(first=TEXTS, second=TEXTS, others=TEXTS, memory=st.sampled_from([1, 10**6]))
def test_strings_come_back_and_are_found(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[str],
    second: list[str],
    others: list[str],
    memory: int,
) -> None:
    strings = list(dict.fromkeys(first + second + ALIKE))
    blocks = [strings[: len(first)], strings[len(first) :]]
    keys, clashes = written(tmp_path_factory.mktemp("strings"), blocks, memory)
    assert len(keys) == len(strings)
    assert keys.many(np.arange(len(strings))) == strings
    assert [keys[row] for row in range(len(strings))] == strings
    asked = [*others, *reversed(strings)]
    rows = {string: row for row, string in enumerate(strings)}
    assert keys.find(asked).tolist() == [rows.get(one, -1) for one in asked]
    assert [keys.find_one(one) for one in asked] == [rows.get(one) for one in asked]
    assert keys.find(["\ud800", *strings[:1]]).tolist() == [-1, *range(len(strings[:1]))]
    assert {strings.index(word) for word in ALIKE} <= set(clashes.tolist())
    assert keys.twice(clashes) is None


@pytest.mark.parametrize("memory", [1, 10**6])
def test_a_string_that_comes_twice_is_told(tmp_path: Path, memory: int) -> None:
    strings = [f"Q{i}" for i in range(500)]
    keys, clashes = written(tmp_path, [strings, ["Q123"]], memory)
    assert {123, 500} <= set(clashes.tolist())
    assert keys.twice(clashes) == "Q123"


def test_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    keys, _ = written(tmp_path, [["a", "b"]])
    for row in (-1, 2):
        with pytest.raises(IndexError, match="of a table of 2 strings"):
            keys[row]
    assert keys.many(np.empty(0, np.int64)) == []


def test_finding_takes_about_five_bytes_a_row(tmp_path: Path) -> None:
    written(tmp_path, [[f"Q{i}" for i in range(50_000)]])
    files = [tmp_path / "flat" / "keys.order.bin", *(tmp_path / "flat").glob("keys.buckets.*")]
    assert sum(file.stat().st_size for file in files) < 5 * 50_000
