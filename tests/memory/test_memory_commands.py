import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ROOT, UserError
from pipeline.memory import __main__ as commands
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder
from tests.memory.small import filled, held
from tests.tiny import memory_settings

SETTINGS = memory_settings(entities=100)


class Folder:
    """Runs commands on one folder."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self.path = path
        self.encoder = encoder

    def __call__(self, *words: str) -> dict[str, Any]:
        given = [*words, "--folder", str(self.path), "--json"]
        found: dict[str, Any] = json.loads(commands.run(given, SETTINGS, self.encoder))
        return found

    def plain(self, *words: str) -> str:
        return commands.run([*words, "--folder", str(self.path)], SETTINGS, self.encoder)

    def held(self) -> set[tuple[str, str, str]]:
        return held(KnowledgeMemory.open(self.path, SETTINGS, TextEncoder(self.encoder, "cpu")))


@pytest.fixture
def memory(tmp_path: Path, encoder: Encoder) -> Folder:
    return Folder(tmp_path / "memory", encoder)


def test_what_one_command_writes_the_next_one_finds(memory: Folder) -> None:
    told = memory("upsert", "France | capital | Paris", "France | currency | euro")
    assert told["written"] == ["The capital of France is Paris.", "The currency of France is euro."]
    assert "new entity 'France'" in told["notes"]
    told = memory("upsert", "france | CAPITAL | Lyon")
    assert told["superseded"] == ["The capital of France is Paris."]
    assert memory("upsert", "France | capital | Paris", "--keep")["superseded"] == []
    assert memory("delete", "France | capital | Lyon")["deleted"] == ["The capital of France is Lyon."]
    facts = memory("search", "France", "--count", "2")["facts"]
    assert {fact["text"] for fact in facts} == {
        "The capital of France is Paris.",
        "The currency of France is euro.",
    }
    assert facts[0]["score"] >= facts[1]["score"]
    assert "  The c" in memory.plain("search", "France")


def test_stats_verify_and_merge_count_what_is_there(memory: Folder) -> None:
    memory("upsert", "France | capital | Paris")
    memory("upsert", "Peru | capital | Lima")
    before = memory("stats")
    assert (before["facts"], before["entities"], before["relations"]) == (2, 4, 1)
    assert (before["generation"], before["changes"]) == (1, 2)
    assert memory("verify") == before
    after = memory("merge")
    assert (after["facts"], after["generation"], after["changes"]) == (2, 2, 0)
    assert after["journal_bytes"] < before["journal_bytes"]
    assert "facts: 2\n" in memory.plain("verify")


def test_a_damaged_folder_is_repaired_by_the_command_that_the_error_names(memory: Folder) -> None:
    memory("upsert", "France | capital | Paris")
    kept = (memory.path / "journal-000001").stat().st_size
    memory("upsert", "Peru | capital | Lima")
    with (memory.path / "journal-000001").open("rb+") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xff")
    with pytest.raises(UserError, match=rf"damaged at byte {kept} .*verify --repair --folder {memory.path}"):
        memory("verify")
    told = memory("verify", "--repair")
    assert told["facts"] == 1
    assert Path(told["set_aside"]).stat().st_size > 0
    assert "set_aside" not in memory("verify", "--repair")
    assert memory("upsert", "Peru | capital | Lima")["facts_held"] == 2


def test_an_import_writes_in_chunks_and_knows_names(
    memory: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "CHUNK", 3)
    memory("upsert", "France | capital | Paris")
    file = tmp_path / "facts.tsv"
    rows = [f"france\tneighbour\tLand {number}" for number in range(7)]
    file.write_text("\n".join([*rows, rows[0], "France\tcapital\tParis", ""]), encoding="utf-8")
    told = memory("import", str(file))
    assert (told["imported"], told["skipped"], told["facts_held"]) == (9, 0, 8)
    assert memory("stats")["changes"] == 1 + 3
    assert {key[0] for key in memory.held()} == {"local:France"}


def test_an_import_stops_at_a_bad_line_or_lists_it(
    memory: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "CHUNK", 2)
    file = tmp_path / "facts.tsv"
    file.write_bytes(b"a\tb\tc\nd\te\tf\ng\th\ti\nbad\nj\tk\tl\nm\tn\t\xff\n")
    with pytest.raises(
        UserError, match=r"facts.tsv, line 4: 1 columns .*--skip \(3 facts before it are in the memory\)"
    ):
        memory("import", str(file))
    assert len(memory.held()) == 3
    told = memory("import", str(file), "--skip")
    assert (told["imported"], told["skipped"], told["facts_held"]) == (4, 2, 4)
    assert [line.split(": ")[0] for line in told["skipped_lines"]] == [f"{file}, line 4", f"{file}, line 6"]


def test_an_ambiguous_name_is_an_error_of_its_line(memory: Folder, tmp_path: Path) -> None:
    file = tmp_path / "facts.ndjson"
    rows = [
        {"head": f"Q{number}", "relation": "in", "tail": "X", "head_label": "Paris"} for number in range(2)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert memory("import", str(file))["facts_held"] == 2
    file.write_text("Paris\tin\tY\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"facts.ndjson, line 1: entity 'Paris': 2 have this label; give the key"
    ):
        memory("import", str(file))


@pytest.mark.parametrize("chunk", [2, 100])
def test_spellings_of_a_new_name_are_one_thing_whatever_the_chunk(
    memory: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(commands, "CHUNK", chunk)
    file = tmp_path / "facts.tsv"
    file.write_text("Zland\tcapital\tZcity\nx\ty\tz\nzland\tCapital\tzcity\n", encoding="utf-8")
    memory("import", str(file))
    assert memory.held() == {
        ("local:Zland", "local:capital", "local:Zcity"),
        ("local:x", "local:y", "local:z"),
    }


def test_a_new_folder_begins_with_a_snapshot(memory: Folder, tmp_path: Path, texts: TextEncoder) -> None:
    filled(texts, [("Q0", "P0", "Q2")]).snapshot(tmp_path / "index")
    told = memory("upsert", "Aland | capital | Q3", "--start", str(tmp_path / "index"), "--keep")
    assert told["facts_held"] == 2
    assert ("Q0", "P0", "local:Q3") in memory.held()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["upsert", "France, capital, Paris"], r"expected Head \| relation \| Tail"),
        (["delete", "France | capital | Paris"], "is not in the memory, so it can't be deleted"),
        (["search", " "], "a name is empty"),
        (["search", "x", "--count", "0"], "--count must be at least 1, not 0"),
        (["import", "absent.tsv"], r"absent.tsv: can't be read"),
    ],
)
def test_what_cannot_be_done_is_named(memory: Folder, words: list[str], text: str) -> None:
    memory("merge")
    with pytest.raises(UserError, match=text):
        memory(*words)
    assert memory.held() == set()


def test_a_folder_that_is_no_memory_is_named(memory: Folder) -> None:
    for command in ("stats", "verify"):
        with pytest.raises(UserError, match=r"memory: not a memory"):
            memory(command)


def test_the_command_prints_one_line_where_it_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.memory", "stats", "--folder", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'absent'}: not a memory")
    assert len(done.stderr.splitlines()) == 1


def test_dates_of_a_file_and_of_a_command_are_searched_as_of_a_date(memory: Folder, tmp_path: Path) -> None:
    file = tmp_path / "facts.tsv"
    header = "head\trelation\ttail\tstart\tend\tsource\n"
    file.write_text(
        f"{header}Brazil\tcapital\tRio\t1763\t1959\tatlas\nBrazil\tcapital\tBrasília\t1960\t\tatlas\n"
    )
    assert memory("import", str(file), "--through", "--on", "2024")["imported"] == 2
    found = [
        [fact["key"][2] for fact in memory("search", "capital of Brazil", "--as-of", date)["facts"]]
        for date in ("1762-12-31", "1959-12-31", "1960")
    ]
    assert found == [[], ["local:Rio"], ["local:Brasília"]]
    told = memory("upsert", "Brazil | capital | Recife", "--since", "2030", "--until", "2040", "--on", "2025")
    assert told["superseded"] == ["The capital of Brazil is Brasília."]
    told = memory("advance", "--on", "2030-01-01")
    assert (told["date"], told["facts_held"]) == ("2030-01-01", 1)
    assert "begun by its date: The capital of Brazil is Recife." in told["notes"]
    assert (memory("stats")["dated"], memory("stats")["date"]) == (3, "2030-01-01")
    file.write_text(f"{header}Brazil\tcapital\tRio\t1763\t1700\tatlas\n")
    with pytest.raises(UserError, match=r"line 2: fact .*: the end '1700' is not after the start '1763'"):
        memory("import", str(file))
