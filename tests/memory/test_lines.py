import gzip
import io
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import UserError
from pipeline.memory import lines
from pipeline.memory.facts import Fact
from pipeline.memory.lines import LONGEST, facts

FULL = {"head": "Q1", "relation": "P1", "tail": "Q2", "head_label": "One", "tail_label": "Two"}
RIGHT = [Fact("France", "capital", "Paris"), Fact("Perú", "capital", "Lima")]


def read(tmp_path: Path, content: bytes, name: str = "facts") -> list[Fact | str]:
    (tmp_path / name).write_bytes(content)
    found = facts(str(tmp_path / name))
    return [str(fact) if isinstance(fact, UserError) else fact for _, fact in found]


@pytest.mark.parametrize(
    "text",
    [
        "France\tcapital\tParis\nPerú\tcapital\tLima\n",
        "\ufeffFrance\tcapital\t Paris \r\n\n  \nPerú\tcapital\tLima",
        "tail\thead\trelation\nParis\tFrance\tcapital\nLima\tPerú\tcapital\n",
        '{"head": "France", "relation": "capital", "tail": "Paris"}\n'
        '{"tail": "Lima", "head": "Per\\u00fa", "relation": "capital", "head_label": ""}\n',
    ],
)
def test_each_form_gives_the_same_facts(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text.encode()) == RIGHT
    assert read(tmp_path, gzip.compress(text.encode()), "facts.gz") == RIGHT


def test_labels_come_along(tmp_path: Path) -> None:
    right = Fact("Q1", "P1", "Q2", "One", "", "Two")
    assert read(tmp_path, json.dumps(FULL).encode()) == [right]
    rows = "\n".join("\t".join(part) for part in (FULL, FULL.values()))
    assert read(tmp_path, rows.encode()) == [right]


def test_the_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(buffer=io.BytesIO(b"a\tb\tc\nbad\n"))
    monkeypatch.setattr(lines, "sys", SimpleNamespace(stdin=stream))
    found = list(facts("-"))
    assert found[0] == (1, Fact("a", "b", "c"))
    assert str(found[1][1]).startswith("standard input, line 2: 1 columns instead of 3")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"only two\tcolumns", "2 columns instead of 3 (tab separated: head, relation, tail)"),
        (b"a\tb\tc\td", "4 columns instead of 3"),
        (b"a\t \tc", "a name is empty; give head, relation and tail"),
        (b"a\tb\tc\xff", "not UTF-8 (byte 5); convert the file to UTF-8"),
        (b"a\tb\t\xed\xa0\x80", "not UTF-8 (byte 4)"),
        (b"a\tb\tc\x00d", "holds a control character or half a character; remove it"),
        (b"a\tb\t" + b"x" * 301, "301 characters, but a name has at most 300; shorten it"),
        (b"a\tb\t" + b"x" * 1_000_000, f"longer than {LONGEST} bytes; a fact has three short names"),
    ],
)
def test_a_line_that_is_no_fact_is_named_and_the_next_is_read(tmp_path: Path, line: bytes, text: str) -> None:
    found = read(tmp_path, b"a\tb\tc\n" + line + b"\nd\te\tf\n")
    assert [found[0], found[2]] == [Fact("a", "b", "c"), Fact("d", "e", "f")]
    assert f"{tmp_path / 'facts'}, line 2: " in str(found[1])
    assert text in str(found[1])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "no JSON ("),
        ("[1]", "has other fields; write an object with the texts head, relation, tail"),
        ('{"head": "a", "tail": "b"}', "has other fields"),
        ('{"head": "a", "relation": "r", "tail": "b", "since": "1"}', "has other fields"),
        ('{"head": "a", "relation": 1, "tail": "b"}', "holds what is no text"),
        ('{"head": "\\ud800", "relation": "r", "tail": "b"}', "a control character or half a character"),
        ('{"head": "a\\u0000b", "relation": "r", "tail": "b"}', "a control character or half a character"),
        ('{"head": "", "relation": "r", "tail": "b"}', "a name is empty"),
        ("[" * 60_000, "no JSON"),
    ],
)
def test_an_object_that_is_no_fact_is_named(tmp_path: Path, line: str, text: str) -> None:
    first = json.dumps(FULL)
    found = read(tmp_path, f"{first}\n{line}\n{first}\n".encode())
    assert [type(part) for part in found] == [Fact, str, Fact]
    assert ", line 2: " in str(found[1])
    assert text in str(found[1])


def test_a_header_of_other_columns_is_refused(tmp_path: Path) -> None:
    [first, *_] = read(tmp_path, b"head\trelation\ttail\torigin\n")
    assert "line 1: the columns are head, relation, tail, origin; there may be head," in str(first)


@pytest.mark.parametrize("name", ["absent", "absent.gz", "folder"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"{name}: can't be read after line 0 .* name a file of facts"):
        list(facts(str(tmp_path / name)))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"facts.gz: can't be read after line"):
        read(tmp_path, gzip.compress(b"a\tb\tc\n" * 99)[:-9], "facts.gz")


def test_a_long_file_is_never_held_whole(tmp_path: Path) -> None:
    file = tmp_path / "facts.tsv"
    with file.open("w") as stream:
        for number in range(100_000):
            stream.write(f"a head of some length {number}\trelation\ttail {number}\n")
    tracemalloc.start()
    count = sum(1 for _ in facts(str(file)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak < file.stat().st_size / 4
