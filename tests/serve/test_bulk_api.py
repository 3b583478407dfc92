"""Facts in bulk over HTTP, entities, and snapshots."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.memory.history import everything, history
from pipeline.memory.lines import LONGEST
from pipeline.memory.store import KnowledgeMemory
from tests.serve.served import Server, fails, serve_settings, served
from tests.serve.small import Trained

LINES = {"Content-Type": "application/x-ndjson"}


def line(head: str, relation: str, tail: str, **others: str) -> bytes:
    return json.dumps({"head": head, "relation": relation, "tail": tail, **others}).encode() + b"\n"


def taken(server: Server, body: Any, query: str = "") -> list[dict[str, Any]]:
    response = server("POST", f"/facts/import{query}", content=body, headers=LINES)
    assert response.status_code == 200, response.text
    return [json.loads(one) for one in response.text.splitlines()]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_each_line_is_written_or_told_what_is_wrong(server: Server, size: int) -> None:
    body = (
        line("Chile", "capital", "Santiago")
        + b"\n"
        + b"no fact\n"
        + line("Chile", "capital", "x" * 301)
        + b'{"head": "' + b"y" * (2 * LONGEST) + b"\n"
        + line("Chile", "currency", "peso", start="yesterday")
        + line("Chile", "currency", "peso", start="1975").rstrip()
    )  # fmt: skip

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size if size > 1 else 1 << 10):
            yield body[start : start + max(size, 1 << 10 if size == 1 else size)]

    *told, counts = taken(server, chunks())
    assert {one["line"]: "written" in one for one in told} == {
        1: True,
        3: False,
        4: False,
        5: False,
        6: False,
        7: True,
    }
    assert "longer than" in told[3]["error"]["message"]
    assert counts == {"lines": 6, "written": 2, "errors": 4, "version": server.service.version}
    memory = server.service.memory
    assert memory.find("local:Chile", "capital", "local:Santiago") is not None
    assert memory.fact(memory.find("local:Chile", "currency", "local:peso") or 0).start == "1975"


def test_batches_are_bounded_and_slots_superseded_in_order(trained: Trained, tmp_path: Path) -> None:
    with served(serve_settings(trained, tmp_path, import_facts=4)) as server:
        before = server.service.version
        cities = [line("France", "capital", f"City {number}") for number in range(3)]
        taken(server, b"".join(cities) + line("Peru", "capital", "Cusco"), "?replace=true")
        memory = server.service.memory
        assert [fact.tail for fact in map(memory.fact, memory.page(0, 9)) if fact.relation == "capital"] == [
            "local:City 2",
            "local:Cusco",
        ]
        assert server.service.version == before + 3
        taken(server, b"".join(line(f"H{number}", "capital", "Paris") for number in range(9)))
        assert server.service.version == before + 3 + 3


def test_an_export_makes_a_memory_that_holds_the_same_at_every_date(
    server: Server, trained: Trained, tmp_path: Path
) -> None:
    for tail, start in (("Vichy", "1940"), ("Bonn", "1960")):
        body = {"head": "France", "relation": "capital", "tail": tail, "start": start}
        server.told("POST", "/facts", 201, json=body)
    exported = server("GET", "/facts/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert len(exported.text.splitlines()) == 5
    empty = tmp_path / "empty.tsv"
    empty.write_text("head\trelation\ttail\nX\tis\tX\n")
    with served(serve_settings(trained, tmp_path / "other", facts=str(empty))) as other:
        *_, counts = taken(other, exported.content)
        assert counts["errors"] == 0
        other.service.memory.delete([("X", "is", "X")])
        for date in ("", "1930", "1950", "1970"):
            asked = f"/facts/export?as_of={date}" if date else "/facts/export"
            found, expected = (sorted(one("GET", asked).text.splitlines()) for one in (other, server))
            assert found == expected
    [then] = server.told("GET", "/facts?as_of=1950&head=France&relation=capital")["facts"]
    assert then["tail"]["label"] == "Vichy"


def test_an_export_is_of_the_moment_that_it_began(server: Server) -> None:
    facts = everything(server.service.memory)
    first = next(facts)
    server.told("POST", "/facts", 201, json={"head": "Peru", "relation": "capital", "tail": "Cusco"})
    assert {fact.tail for fact in [first, *facts]} == {"Paris", "euro", "Lima"}
    told = history(server.service.memory, "Peru", "capital")
    assert [one.period.end != "" for one in told] == [True, False]


def test_entities_are_found_by_parts_of_their_names(server: Server) -> None:
    for head in ("New France", "french toast", "Africa"):
        server.told("POST", "/facts", 201, json={"head": head, "relation": "is", "tail": "known"})
    found = server.told("GET", "/entities?query=FR")["entities"]
    assert [one["label"] for one in found] == ["France", "french toast", "New France", "Africa"]
    assert server.told("GET", "/entities?query=fr&n=1")["entities"] == [{"key": "France", "label": "France"}]
    assert server.told("GET", "/entities?query=local:Africa")["entities"][0]["label"] == "Africa"
    assert server.told("GET", "/entities?query=zzz")["entities"] == []
    server.told("POST", "/facts", 201, json={"head": "Zzz", "relation": "is", "tail": "known"})
    assert len(server.told("GET", "/entities?query=zzz")["entities"]) == 1, "it is new"


def test_an_entity_shows_the_facts_around_it(server: Server) -> None:
    server.told("POST", "/facts", 201, json={"head": "AC/DC", "relation": "home", "tail": "Peru"})
    told = server.told("GET", "/entities/Peru")
    assert [fact["text"] for fact in told["facts_out"]["facts"]] == ["The capital of Peru is Lima."]
    assert [fact["text"] for fact in told["facts_in"]["facts"]] == ["The home of AC/DC is Peru."]
    assert server.told("GET", "/entities/local:AC%2FDC")["label"] == "AC/DC"
    few = server.told("GET", "/entities/France?n=1")["facts_out"]
    assert (few["count"], len(few["facts"])) == (2, 1)
    fails(server("GET", "/entities/nobody"), 404, "unknown_entity")
    assert server.service.memory.facts_to(0, 1) is None, "too many facts to look at"


def test_a_snapshot_is_the_memory_of_its_moment(server: Server, tmp_path: Path) -> None:
    server.told("POST", "/facts", 201, json={"head": "Peru", "relation": "capital", "tail": "Cusco"})
    told = server.told("POST", "/snapshots", 201, json={"name": "first-1"})
    assert (told["name"], told["facts"]) == ("first-1", 3)
    server.told("POST", "/facts", 201, json={"head": "Peru", "relation": "capital", "tail": "Lima"})
    memory = server.service.memory
    copy = KnowledgeMemory.open(tmp_path / "snapshots" / "first-1", memory.settings, memory.encoder)
    assert copy.find("Peru", "capital", "local:Cusco") is not None
    assert copy.as_of("1950").find("Peru", "capital", "Lima") is not None
    assert server.told("GET", "/snapshots")["snapshots"] == [told]
    fails(server("POST", "/snapshots", json={"name": "first-1"}), 409, "exists")
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["first-1"], "nothing is left behind"


NO_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/tmp/x",
    "A",
    "a b",
    "a\u0000",
    "a\n",
    "-a",
    "x" * 65,
    "é",
    3,
    None,
]


def test_a_snapshot_has_a_plain_name(calm: Server) -> None:
    for name in NO_NAMES:
        assert calm("POST", "/snapshots", json={"name": name}).status_code == 400, name
    assert not calm.service.settings.snapshots.exists()
