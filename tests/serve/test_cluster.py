"""A session and a server whose memory is in shards answer and change as on one memory."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.local import fill
from pipeline.config import UserError
from pipeline.serve import start
from pipeline.serve.session import Session
from tests.cluster.clusters import Cluster, cluster
from tests.serve.served import fails, serve_settings, served
from tests.serve.small import Trained

QUESTIONS = [
    "What is the capital of Aland?",
    "official language of Borland",
    "What is the currency of Cland?",
]


@pytest.fixture
def shards(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The small world's memory in three shards, at the address cluster:facts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIVING_MEMORY_TOKEN", raising=False)
    single = Session.open(trained.adapter, trained.memory).system.memory
    fill(single, tmp_path / "shards", 3, 2)
    made = cluster(tmp_path / "shards", single.settings, single.encoder, 3, replication=2)
    made.memory.folder = tmp_path / "own"
    made.memory.folder.mkdir()

    def opened(address: Any, settings: Any, encoder: Any, write: bool) -> Any:
        assert address.name == "facts"
        made.memory.encoder = encoder
        return made.memory

    monkeypatch.setattr(start, "opened", opened)
    yield made
    made.close()


def test_a_session_answers_as_on_one_memory_also_without_a_copy(trained: Trained, shards: Cluster) -> None:
    single = Session.open(trained.adapter, trained.memory)
    session = Session.open(trained.adapter, "cluster:facts")
    for which in (None, 0):
        for own in shards.copies:
            if which is not None:
                own[which].end()
        for question in QUESTIONS:
            one, other = single.ask(question), session.ask(question)
            assert (one.text, one.refused) == (other.text, other.refused)
            assert [used.key for used in one.facts] == [used.key for used in other.facts]
            weights = [used.weight for used in one.facts]
            assert weights == pytest.approx([used.weight for used in other.facts], abs=1e-4)


def test_a_session_changes_it_by_labels_and_keys(trained: Trained, shards: Cluster) -> None:
    sessions = [Session.open(trained.adapter, place) for place in (trained.memory, "cluster:facts")]
    told = []
    for session in sessions:
        made = session.upsert("aland | capital | Zcity", "Zland | capital | Aland")
        gone = session.delete("Zland | capital | Aland")
        with pytest.raises(UserError, match=r"'Aland \| capital \| Borland' is not in the memory"):
            session.delete("Aland | capital | Borland")
        told.append(
            (
                replace(made, seconds=0),
                replace(gone, seconds=0),
                [stretch.period for stretch in session.history("Aland | capital")],
            )
        )
    assert told[0] == told[1]
    assert told[0][0].superseded == told[1][0].superseded != []
    sessions[1].as_of("2000")
    assert [used.text for used in sessions[1].ask(QUESTIONS[0]).facts]
    with pytest.raises(UserError, match="what held as of 2000-01-01 can't be changed"):
        sessions[1].upsert("Aland | capital | Ycity")


def test_a_server_answers_and_changes_it(trained: Trained, shards: Cluster, tmp_path: Path) -> None:
    settings = serve_settings(trained, tmp_path, memory="cluster:facts", facts=None)
    with served(settings) as server:
        asked = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "model": "living-memory"}
        assert server.told("POST", "/v1/chat/completions", json=asked)["choices"]
        fact = {"head": "Aland", "relation": "capital", "tail": "Zcity"}
        made = server.told("POST", "/facts", 201, json=fact)
        assert made["written"]["text"] == "The capital of Aland is Zcity."
        listed = server.told("GET", "/facts?head=Aland&relation=capital")["facts"]
        assert [one["text"] for one in listed] == ["The capital of Aland is Zcity."]
        known_by = made["written"]["id"]
        assert server.told("GET", f"/facts/{known_by}")["holds"]
        assert server.told("DELETE", f"/facts/{known_by}")["deleted"]["id"] == known_by
        assert server.told("GET", "/entities/Q0")["facts_in"] is None
        fails(server("GET", "/facts"), 400, "invalid_value")
