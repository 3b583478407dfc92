from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.sources.temporalwiki import TemporalWiki
from pipeline.kg.splits import Splits

HEADER = "subject,relation,object\n"
AUGUST = {
    "0801-0901_changed.csv": f"{HEADER}Marc Gasol,member of,Girona\n",
    "0801-0901_unchanged.csv": f'{HEADER}France,capital,Paris\n"Reims, Marne",country,France\n',
}
SEPTEMBER = {
    "0901-1001_changed.csv": f"{HEADER}Marc Gasol,member of,Lakers\nSelf,is,Self\n",
    "0901-1001_unchanged.csv": f"{HEADER}France,capital,Paris\n",
}
SOURCE = TemporalWiki(folder="probes", url="", snapshots="monthly")


@pytest.fixture
def probes(write) -> None:
    for name, text in {**AUGUST, **SEPTEMBER}.items():
        write(f"probes/{name}", text)


def test_later_months_add_facts(probes: None) -> None:
    extract = SOURCE.extract()
    assert [name for name, _ in extract.snapshots] == ["2021-09", "2021-10"]
    first, last = (set(facts) for _, facts in extract.snapshots)
    assert first < last
    assert {(t.head, t.relation, t.tail) for t in last - first} == {
        ("Marc Gasol", "member of", "Lakers"),
        ("Self", "is", "Self"),
    }
    assert extract.counts == {"rows": 6, "rows_repeated": 1, "self_loops": 1}
    assert extract.entities["Reims, Marne"].label == "Reims, Marne"
    assert {t.source for t in first} == {"0801-0901_changed", "0801-0901_unchanged"}


def test_without_snapshots_all_facts_are_the_base(probes: None, tmp_path: Path) -> None:
    source = replace(SOURCE, snapshots="none")
    (_, facts), *others = source.extract().snapshots
    assert len(facts) == 5
    assert not others
    counts = build(source.extract(), Splits(valid=0.2, test=0.4, unseen_relations=0), 0, tmp_path / "tables")
    assert counts["facts"] == 4  # the self-loop is left out


def test_the_publishers_zip_is_read_and_fetched(root: Path, pack) -> None:
    files = {f"TWiki_Probes/{name}": text for name, text in AUGUST.items()} | {"TWiki_Probes/notes.csv": "x"}
    archive = pack("elsewhere.zip", files)
    extract = replace(SOURCE, url=archive.as_uri()).extract()
    assert len(extract.snapshots[0][1]) == 3
    assert extract.counts["files_passed_over"] == 1
    assert (root / "probes.zip").is_file()


def test_what_is_missing_or_damaged_is_named(root: Path, write) -> None:
    with pytest.raises(
        UserError, match=r"probes: not found.*put the unpacked CSV files of TWiki-Probes into"
    ):
        SOURCE.extract()
    with pytest.raises(
        UserError, match=r"probes.zip: not found, and file:.*can't be fetched.*put the unpacked CSV"
    ):
        replace(SOURCE, url=(root / "gone.zip").as_uri()).extract()
    write("probes/other.csv", HEADER)
    with pytest.raises(UserError, match=r"no file is named like 0801-0901_changed.csv"):
        SOURCE.extract()
    path = write("probes/0801-0901_changed.csv", "subject,relation\nA,B\n")
    with pytest.raises(UserError, match=r"0801-0901_changed.csv, line 1: lacks the column 'object'"):
        SOURCE.extract()
    path.write_text(f"{HEADER}A,B,\n")
    with pytest.raises(UserError, match=r"0801-0901_changed.csv, line 2: \['A', 'B', ''\]"):
        SOURCE.extract()


def test_unknown_snapshots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.snapshots must be one of monthly, none, not 'daily'"):
        replace(SOURCE, snapshots="daily")
