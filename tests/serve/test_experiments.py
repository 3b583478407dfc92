import json

import pytest

from pipeline.serve import experiments as module
from pipeline.serve.experiments import capital, experiments, questions, reading, sparse, told
from pipeline.serve.session import Session
from pipeline.serve.start import EXAMPLES


@pytest.fixture
def france(trained):
    """A memory of three facts, among them the capital of France."""
    return Session.open(trained.adapter, facts=trained.facts)


def test_all_three_have_figures_and_a_verdict(france, monkeypatch):
    monkeypatch.setattr(module, "QUESTIONS", 2)
    found = experiments(france)
    assert json.loads(json.dumps(found)) == found
    first, second, third = found["capital"], found["update"], found["sparse"]
    assert first["confirmed"] is True
    assert first["candidates"] == 3
    assert first["facts_of_france"] == 2
    assert 1 <= first["rank_of_france"] <= first["rank_of_the_fact"] <= 3
    assert 0 < first["weight_of_the_fact"] <= 1
    assert second["confirmed"] is False, "a random language model does not read"
    assert second["seconds_to_add"] > 0
    assert third["confirmed"] == (third["faster"] and third["no_worse"])
    assert france.system.memory.find("local:CompanyX", "local:CEO", "local:PersonZ") is None
    assert len(france.system.memory) == 3
    text = told(found)
    assert text.count("onfirmed:") == 3
    assert "Not confirmed: the answer follows a new fact" in text


def test_a_fact_that_is_not_selected_is_not_confirmed(trained):
    session = Session.open(trained.adapter, facts=trained.facts, k=1)
    weighted = [capital(session)["weight_of_the_fact"]]
    session.delete("France | capital | Paris")
    session.upsert("France | capital | Paris", replace=False)
    best = session.ask(module.CAPITAL).facts[0].key == ("France", "capital", "Paris")
    assert (weighted[0] is not None) == best
    assert capital(session)["confirmed"] == best


def test_a_memory_without_france_is_asked_about_the_examples(session):
    found = capital(session)
    assert found["memory"] == str(EXAMPLES)
    assert found["candidates"] == 12


def test_dense_reads_every_candidate_and_leaves_the_session_as_it_was(session):
    before = session.system.memory.settings, session.system.method, session.system.facts
    found = sparse(session, questions(session, 3))
    assert found["questions"] == 3
    assert found["sparse"]["facts_read"] <= found["sparse"]["k"] == 3
    assert found["dense"]["k"] == 12
    assert found["dense"]["facts_read"] > found["sparse"]["facts_read"]
    assert (session.system.memory.settings, session.system.method, session.system.facts) == before
    with pytest.raises(RuntimeError), reading(session, 1, 1.0):
        raise RuntimeError
    assert session.system.memory.settings == before[0]


def test_questions_are_those_of_unseen_facts_or_made_of_the_memory(world, session, monkeypatch):
    made = questions(session, 4)
    assert made == questions(session, 4)
    assert len(dict(made)) == 4
    for text, answers in made:
        assert text.startswith("What is the ")
        assert answers
    monkeypatch.setattr(module, "shared_paths", lambda: world.paths)
    asked = questions(session, 2)
    table = {row["text"]: row for row in module.read_table(world.paths.kv, "questions").to_pylist()}
    assert len(asked) == 2
    for text, answers in asked:
        assert (table[text]["split"], table[text]["answers"]) == ("unseen", answers)
