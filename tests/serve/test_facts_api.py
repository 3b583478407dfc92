"""Facts over HTTP: looked up, written, deleted, and what their slots held."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.store import KnowledgeMemory
from pipeline.serve.idempotency import NAME, Given, Repeats
from pipeline.serve.refusals import Refusal
from pipeline.serve.shown import fact_id, fact_key
from tests.serve.served import Server, fails, serve_settings, served
from tests.serve.small import Trained

PARIS = ("France", "capital", "Paris")
JSON = {"Content-Type": "application/json"}
CAPITAL = "/facts?head=France&relation=capital"


def capital(tail: str, **others: Any) -> dict[str, Any]:
    return {"json": {"head": "France", "relation": "capital", "tail": tail, **others}}


def texts(listed: dict[str, Any]) -> list[str]:
    return [fact["text"] for fact in listed["facts"]]


@given(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 3))
def test_an_id_is_its_fact(key: tuple[str, str, str]) -> None:
    known_by = fact_id(key)
    assert fact_key(known_by) == key
    assert all(char.isalnum() or char in "-_" for char in known_by)


@pytest.mark.parametrize(
    "known_by", ["", "x", "W10", "WzEsMiwzXQ", "%2e%2e", "a" * 500, "é", "WyJhIiwgImIiLCAiYyJd"]
)
def test_what_is_no_id_is_not_found(known_by: str) -> None:
    with pytest.raises(Refusal, match="there is no fact with the id"):
        fact_key(known_by)


def test_facts_are_listed_page_by_page(server: Server) -> None:
    first = server.told("GET", "/facts?limit=2")
    assert len(first["facts"]) == 2
    rest = server.told("GET", f"/facts?limit=2&cursor={first['next']}")
    assert rest["next"] is None
    assert sorted(texts(first) + texts(rest)) == [
        "The capital of France is Paris.",
        "The capital of Peru is Lima.",
        "The currency of France is euro.",
    ]
    of_head = server.told("GET", "/facts?head=france&limit=1")
    assert of_head["next"] is not None
    assert texts(server.told("GET", "/facts?head=nowhere")) == []
    assert texts(server.told("GET", CAPITAL)) == ["The capital of France is Paris."]
    fails(server("GET", "/facts?relation=capital"), 400, "invalid_value")
    fails(server("GET", "/facts?colour=red"), 400, "extra_forbidden")


def test_a_search_finds_what_the_model_would(server: Server) -> None:
    session = server.service.session
    found = server.told("GET", "/facts", params={"query": "capital of Peru?", "n": 2})
    expected = session.system.ground(["capital of Peru?"], 2)[0].tolist()
    assert [fact["id"] for fact in found["facts"]] == [
        fact_id(server.service.memory.key(row)) for row in expected
    ]
    scores = [fact["score"] for fact in found["facts"]]
    assert scores == sorted(scores, reverse=True)
    fails(server("GET", "/facts?query=x&head=France"), 400, "invalid_value")


def test_a_change_is_in_the_folder_and_in_the_next_answer(server: Server, trained: Trained) -> None:
    told = server.told("POST", "/facts", 201, **capital("Lyon"))
    assert told["written"]["text"] == "The capital of France is Lyon."
    assert [fact["text"] for fact in told["superseded"]] == ["The capital of France is Paris."]
    assert "new entity 'Lyon'" in told["notes"]
    assert texts(server.told("GET", CAPITAL)) == ["The capital of France is Lyon."]
    known_by = told["written"]["id"]
    memory = server.service.memory
    copy = KnowledgeMemory.open(memory.folder, memory.settings, memory.encoder)
    assert copy.find(*fact_key(known_by)) is not None
    assert copy.find(*PARIS) is None
    again = server.told("POST", "/facts", 200, **capital("Lyon"))
    assert again["version"] > told["version"]
    gone = server.told("DELETE", f"/facts/{known_by}")
    assert gone["deleted"]["id"] == known_by
    assert gone["version"] > again["version"]
    assert texts(server.told("GET", CAPITAL)) == []
    fails(server("DELETE", f"/facts/{known_by}"), 404, "unknown_fact")
    fails(server("GET", f"/facts/{known_by}"), 404, "unknown_fact")


def test_values_stand_side_by_side_where_they_may(server: Server) -> None:
    told = server.told("POST", "/facts", 201, **capital("Lyon", replace=False))
    assert told["superseded"] == []
    assert len(server.told("GET", CAPITAL)["facts"]) == 2


def test_a_slot_tells_what_it_held(server: Server) -> None:
    for tail, start, source in (("Vichy", "1940", ""), ("Bonn", "1960", "gazette")):
        server.told("POST", "/facts", 201, **capital(tail, start=start, source=source))
    known_by = fact_id(PARIS)
    told = server.told("GET", f"/facts/{known_by}/history")
    assert told["head"]["label"] == "France"
    values = {value["tail"]["label"]: value for value in told["values"]}
    assert list(values) == ["Paris", "Vichy", "Bonn"]
    assert (values["Paris"]["end"], values["Vichy"]["end"], values["Bonn"]["end"]) == ("1940", "1960", "")
    assert values["Paris"]["superseded_by"] == [values["Vichy"]["id"]]
    assert values["Bonn"]["source"] == "gazette"
    assert [value["holds"] for value in told["values"]] == [False, False, True]
    then = server.told("GET", f"/facts/{known_by}/history?as_of=1950")
    assert [value["holds"] for value in then["values"]] == [False, True, False]
    assert texts(server.told("GET", f"{CAPITAL}&as_of=1950-06")) == ["The capital of France is Vichy."]
    found = server.told("GET", "/facts?query=capital%20of%20France&as_of=1930&n=20")
    assert {"The capital of France is Paris."} <= set(texts(found))
    assert "The capital of France is Bonn." not in texts(found)
    assert server.told("GET", f"/facts/{known_by}")["holds"] is False
    fails(server("GET", f"/facts/{known_by}/history?as_of=1950-13"), 400, "invalid_value")
    fails(server("GET", f"/facts/{fact_id(('a', 'b', 'c'))}/history"), 404, "unknown_fact")


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"tail": ""}, 400, "tail"),
        ({"tail": " "}, 400, None),
        ({"tail": 3}, 400, "tail"),
        ({"tail": "x" * 301}, 400, "tail"),
        ({"tail": "a\u0000b"}, 400, None),
        ({"tail": "\u001b[31mred"}, 400, None),
        ({"replace": "yes"}, 400, "replace"),
        ({"start": "yesterday"}, 400, None),
        ({"start": "2000", "end": "1990"}, 400, None),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_is_changed(
    calm: Server, changes: dict[str, Any], status: int, param: str | None
) -> None:
    before = calm.service.version, len(calm.service.memory)
    body = capital("Lyon")["json"] | changes
    response = calm("POST", "/facts", content=json.dumps(body), headers=JSON)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert (calm.service.version, len(calm.service.memory)) == before


def test_of_two_writers_with_the_same_etag_one_wins(server: Server) -> None:
    for turn in range(10):
        tag = server("GET", CAPITAL).headers["etag"]
        results: list[int] = []

        def write(name: str, tag: str = tag, results: list[int] = results) -> None:
            response = server("POST", "/facts", **capital(name), headers={"If-Match": tag})
            results.append(response.status_code)

        writers = [threading.Thread(target=write, args=(f"City {turn} {side}",)) for side in "AB"]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(results) == [201, 412]


def test_an_etag_changes_with_what_it_is_of(server: Server) -> None:
    known_by = fact_id(PARIS)
    tag = server("GET", f"/facts/{known_by}").headers["etag"]
    assert server("GET", f"/facts/{known_by}").headers["etag"] == tag
    slot = server("GET", CAPITAL).headers["etag"]
    server.told("POST", "/facts", 201, json={"head": "Peru", "relation": "currency", "tail": "sol"})
    assert server("GET", CAPITAL).headers["etag"] == slot, "another slot"
    written = server("POST", "/facts", **capital("Paris", source="atlas"), headers={"If-Match": slot})
    assert written.status_code == 200
    assert written.headers["etag"] == server("GET", CAPITAL).headers["etag"] != slot
    fails(server("DELETE", f"/facts/{known_by}", headers={"If-Match": tag}), 412, "changed_meanwhile")
    fails(server("DELETE", f"/facts/{known_by}", headers={"If-Match": f"W/{slot}"}), 412, "changed_meanwhile")
    tag = server("GET", f"/facts/{known_by}").headers["etag"]
    server.told("DELETE", f"/facts/{known_by}", headers={"If-Match": f'"other", {tag}'})
    refused = server("POST", "/facts", **capital("Lyon"), headers={"If-Match": "*"})
    fails(refused, 412, "changed_meanwhile")


def test_a_request_with_a_key_is_carried_out_once(trained: Trained, tmp_path: Any) -> None:
    settings = serve_settings(trained, tmp_path)
    key = {"Idempotency-Key": "first"}
    with served(settings) as server:
        first = server("POST", "/facts", **capital("Lyon"), headers=key)
        assert first.status_code == 201
        version = server.service.version
        again = server("POST", "/facts", **capital("Lyon"), headers=key)
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["etag"] == first.headers["etag"]
        assert server.service.version == version
        fails(server("POST", "/facts", **capital("Nice"), headers=key), 422, "key_reused")
        fails(
            server("POST", "/facts", **capital("Nice"), headers={"Idempotency-Key": ""}), 400, "invalid_value"
        )
        refused = server("POST", "/facts", **capital(" "), headers={"Idempotency-Key": "second"})
        assert refused.status_code == 400, "what was refused may be sent again"
        server.told("POST", "/facts", 201, **capital("Nice"), headers={"Idempotency-Key": "second"})
    settings = serve_settings(trained, tmp_path, facts=None)
    with served(settings) as server:
        version = server.service.version
        again = server("POST", "/facts", **capital("Lyon"), headers=key)
        assert (again.status_code, again.text) == (201, first.text), "it is known after a restart"
        assert server.service.version == version


def test_few_keys_are_kept_and_a_line_that_was_cut_off_is_passed_over(tmp_path: Any) -> None:
    repeats = Repeats(tmp_path, 3)
    for number in range(20):
        repeats.keep(Given(f"key {number}", "asked", 201, "tag", "{}"))
    assert len(repeats) == 3
    file = tmp_path / NAME
    assert len(file.read_text().splitlines()) <= 7
    with file.open("ab") as stream:
        stream.write(b'{"key": "key 20", "requ')
    again = Repeats(tmp_path, 3)
    assert again.find("key 16", "asked") is None
    assert again.find("key 19", "asked") == Given("key 19", "asked", 201, "tag", "{}")
    with pytest.raises(Refusal, match="used with another request"):
        again.find("key 19", "other")
    assert len(file.read_text().splitlines()) == 3


def test_a_disk_that_fails_is_no_fault_of_the_client(server: Server) -> None:
    server.service.memory.journal.refuse("its disk failed")
    response = server("POST", "/facts", **capital("Lyon"))
    fails(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert str(server.service.memory.folder) not in response.text
