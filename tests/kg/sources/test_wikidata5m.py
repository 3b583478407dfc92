import filecmp
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.facts import SCHEMAS, read_table
from pipeline.kg.sources import Entity, Extract, Triple, wikidata5m
from pipeline.kg.sources.wikidata5m import Wikidata5M, shortened
from pipeline.kg.splits import Splits

SPLITS = Splits(valid=0.2, test=0.3, unseen_relations=0.3)
SOURCE = Wikidata5M(folder="w5m", urls={}, aliases=2, description=20)
RELATIONS = ["P6", "P17", "P19", "P54", "P500"]
SIZE = 60


def triples(part: str) -> list[tuple[str, str, str]]:
    """Facts of a part, a self-loop, a repetition and a fact of another part among them."""
    start = ("train", "valid", "test").index(part)
    facts = [
        (f"Q{1 + (i * 7 + start) % SIZE}", RELATIONS[i % 5], f"Q{1 + (i * 11 + 3) % SIZE}")
        for i in range(start, 150, 1 if part == "train" else 20)
    ]
    return [*facts, facts[0], ("Q5", "P6", "Q5"), ("Q1", "P17", "Q2"), ("Q900", "P6", "Q900")]


@pytest.fixture
def folder(root: Path, write: Callable[[str, str], Path]) -> Path:
    for part in ("train", "valid", "test"):
        lines = "".join("\t".join(triple) + "\n" for triple in triples(part))
        write(f"w5m/wikidata5m_transductive_{part}.txt", lines)
    named = "".join(f"Q{i}\tName  {i % 50}\tother {i}\tthird\tfourth\n" for i in range(SIZE, 1, -1))
    write("w5m/wikidata5m_entity.txt", f"{named}Q777\tunused\n")
    write("w5m/wikidata5m_relation.txt", "".join(f"{key}\trelation {key}\tr\n" for key in RELATIONS[1:]))
    write("w5m/wikidata5m_text.txt", 'Q2\tName 2 is a "name" of some length\nQ3\tshort\nQ888\tunused\n')
    return root / "w5m"


def test_the_tables_are_those_of_the_build_in_memory(folder: Path, tmp_path: Path) -> None:
    counts = SOURCE.write(SPLITS, 3, tmp_path / "streamed")
    facts: dict[tuple[str, str, str], Triple] = {}
    for part in ("train", "valid", "test"):
        for fact in triples(part):
            facts.setdefault(fact, Triple(*fact, "", "", part))
    named = {f"Q{i}": Entity(f"Name {i % 50}", "", (f"other {i}", "third")) for i in range(2, SIZE + 1)}
    described = {
        "Q2": replace(named["Q2"], description='Name 2 is a "name"'),
        "Q3": replace(named["Q3"], description="short"),
    }
    entities = {"Q1": Entity("Q1"), "Q900": Entity("only a self-loop"), **named, **described}
    relations = {key: f"relation {key}" for key in RELATIONS} | {"P6": "P6"}
    extract = Extract(entities, relations, [("base", list(facts.values()))])
    expected = build(extract, SPLITS, 3, tmp_path / "built")
    for name in ("entities", "relations", "facts", "changes", "questions"):
        streamed, built = (read_table(tmp_path / side, name) for side in ("streamed", "built"))
        assert streamed.equals(built), name
        assert pq.read_schema(tmp_path / "streamed" / f"{name}.parquet") == SCHEMAS[name]
    for name in ("facts", "slots", "entities", "heads", "entities that share their label", "labels shared"):
        assert counts[name] == expected[name], name
    assert {name: fold["facts"] for name, fold in counts["folds"].items()} == {
        name: fold["facts"] for name, fold in expected["folds"].items()
    }
    assert {label: row["facts"] for label, row in counts["relations"].items()} == {
        label: row["facts"] for label, row in expected["relations"].items()
    }
    assert counts["repairs"]["self-loops left out"] == 6
    assert counts["repairs"]["entities without aliases, named by their key"] == 1
    assert counts["repairs"]["relations without aliases, named by their key"] == 1
    assert counts["repairs"]["aliases of other entities left out"] == 1
    assert counts["repairs"]["paragraphs of other entities left out"] == 1
    rows = sum(len(triples(part)) for part in ("train", "valid", "test"))
    repeated = counts["repairs"]["repeated rows left out"]
    assert rows == counts["facts"] + repeated + counts["repairs"]["self-loops left out"]


def test_small_row_groups_and_blocks_give_the_same_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SOURCE.write(SPLITS, 0, tmp_path / "large")
    SOURCE.write(SPLITS, 0, tmp_path / "again")
    monkeypatch.setattr(wikidata5m, "GROUP", 7)
    monkeypatch.setattr("pipeline.kg.sources.streamed.FACT_GROUP", 13)
    monkeypatch.setattr("pipeline.kg.sources.large.BLOCK", 64)
    monkeypatch.setattr("pipeline.kg.sources.large.BATCH", 5)
    SOURCE.write(SPLITS, 0, tmp_path / "small")
    for name in ("entities", "facts", "relations"):
        assert read_table(tmp_path / "small", name).equals(read_table(tmp_path / "large", name))
        assert filecmp.cmp(
            tmp_path / "again" / f"{name}.parquet", tmp_path / "large" / f"{name}.parquet", shallow=False
        )
    assert pq.ParquetFile(tmp_path / "small" / "facts.parquet").num_row_groups > 3
    assert not list((tmp_path / "small").glob(".shelves*"))


def test_paragraphs_are_read_gzipped_or_not_at_all(folder: Path, write, tmp_path: Path) -> None:
    plain = (folder / "wikidata5m_text.txt").read_text()
    (folder / "wikidata5m_text.txt").unlink()
    with pytest.raises(
        UserError, match=r"wikidata5m_text.txt: not found; put wikidata5m_text.txt of Wikidata5M into"
    ):
        SOURCE.write(SPLITS, 0, tmp_path / "missing")
    replace(SOURCE, description=0).write(SPLITS, 0, tmp_path / "none")
    assert set(read_table(tmp_path / "none", "entities")["description"].to_pylist()) == {""}
    away = write("away.gz", plain)
    replace(SOURCE, urls={"texts": away.as_uri()}).write(SPLITS, 0, tmp_path / "fetched")
    assert "short" in read_table(tmp_path / "fetched", "entities")["description"].to_pylist()


def test_missing_archives_are_fetched_and_unpacked(folder: Path, pack, tmp_path: Path) -> None:
    files = {path.name: path.read_text() for path in folder.glob("*.txt")}
    held = {f"set/{name}": text for name, text in files.items() if "transductive" in name}
    urls = {"triples": pack("away.tar.gz", held).as_uri()}
    for path in folder.glob("*transductive*"):
        path.unlink()
    assert replace(SOURCE, urls=urls).write(SPLITS, 0, tmp_path / "tables")["facts"] > 60
    (folder / "wikidata5m_entity.txt").unlink()
    urls |= {"aliases": pack("empty.tar.gz", {"other.txt": "x"}).as_uri()}
    with pytest.raises(
        UserError, match=r"wikidata5m_aliases.tar.gz: holds no wikidata5m_entity.txt; put wiki"
    ):
        replace(SOURCE, urls=urls).write(SPLITS, 0, tmp_path / "tables")
    (folder / "wikidata5m_aliases.tar.gz").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"(?s)wikidata5m_aliases.tar.gz: damaged .* delete it to fetch it again"
    ):
        replace(SOURCE, urls=urls).write(SPLITS, 0, tmp_path / "tables")


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("transductive_train", "Q1\tP17", r"train.txt, line 155: 2 columns instead of 3"),
        ("transductive_train", "Q1\tP17\tQ2\tQ3", r"train.txt, line 155: 4 columns instead of 3"),
        (
            "transductive_valid",
            "Q1\tP17\tLyon",
            r"valid.txt, line 13: 'Lyon' is no id like Q42; correct the line",
        ),
        ("transductive_test", "Q1\tcountry\tQ2", r"test.txt, line \d+: 'country' is no id like P42"),
        ("transductive_train", "Q1\tP17\tQ\udcff", r"train.txt: damaged"),
        ("entity", "Q1", r"entity.txt, line 61: 'Q1' is no key with texts after it"),
        ("entity", "\tLyon", r"entity.txt, line 61: '\\tLyon' is no key"),
        ("relation", "P6\t\udcff", r"relation.txt, line 5: not UTF-8"),
        ("text", "Q4\t ", r"text.txt, line 4: .* is no key with texts after it"),
    ],
)
def test_bad_lines_are_named(folder: Path, tmp_path: Path, name: str, line: str, expected: str) -> None:
    path = folder / f"wikidata5m_{name}.txt"
    path.write_bytes(path.read_bytes() + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=expected) as caught:
        SOURCE.write(SPLITS, 0, tmp_path / "tables")
    assert str(path) in str(caught.value)


def test_nothing_but_self_loops_or_an_empty_file_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "wikidata5m_transductive_test.txt").write_text("")
    with pytest.raises(UserError, match=r"test.txt: empty; fetch it again"):
        SOURCE.write(SPLITS, 0, tmp_path / "tables")
    for path in folder.glob("*transductive*"):
        path.write_text("Q1\tP6\tQ1\n")
    with pytest.raises(UserError, match="every fact is a self-loop"):
        SOURCE.write(SPLITS, 0, tmp_path / "tables")


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.aliases must be 0 or more, not -1"):
        replace(SOURCE, aliases=-1)
    with pytest.raises(ValueError, match=r"data.urls must name triples, aliases or texts, not 'images'"):
        replace(SOURCE, urls={"images": "https://example.org"})


@given(text=st.text(st.characters(codec="utf-8")), most=st.integers(1, 40))
def test_shortened_texts_are_whole_words_that_fit(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    words = text.split()
    assert short.split() == words[: len(short.split())] or words[0].startswith(short)
    if len(text) <= most:
        assert short == " ".join(words)


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"too many for one 64-bit number a fact"):
        wikidata5m.Packing(1 << 31, 8, 3)
