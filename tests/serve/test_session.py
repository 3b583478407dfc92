import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import UserError
from pipeline.serve import start
from pipeline.serve.session import Session

QUESTION = "What is the capital of Aland?"


def test_an_answer_names_the_facts_it_was_read_from(session):
    answer = session.ask(f"  {QUESTION} ")
    assert answer.question == QUESTION
    assert 1 <= len(answer.facts) <= session.system.memory.settings.k
    weights = [used.weight for used in answer.facts]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) <= 1 + 1e-5
    for used in answer.facts:
        row = session.system.memory.find(*used.key)
        assert row is not None
        assert used.text == session.system.memory.text(row)
    again = session.ask(QUESTION)
    assert (again.text, again.facts) == (answer.text, answer.facts)


def test_what_is_upserted_is_found_by_the_next_question(session):
    """The random encoder tells nothing apart, so the memory is emptied of all else."""
    memory = session.system.memory
    memory.delete([memory.fact(row).key for e in range(len(memory.entities)) for row in memory.facts_of(e)])
    with pytest.raises(UserError, match=r"the memory holds no fact; add one by --upsert"):
        session.ask(QUESTION)
    session.upsert("Zland | capital | Zcity")
    assert [used.text for used in session.ask("capital of Zland?").facts] == [
        "The capital of Zland is Zcity."
    ]
    session.upsert("Zland | capital | Ycity")
    assert [used.text for used in session.ask("capital of Zland?").facts] == [
        "The capital of Zland is Ycity."
    ]


def test_a_refusal_gives_no_answer_and_what_it_looked_at(trained, tmp_path):
    folder = shutil.copytree(trained.adapter, tmp_path / "ours")
    state = load_file(folder / "adapter.safetensors")
    save_file(state | {"null.threshold": torch.tensor(1e-6)}, folder / "adapter.safetensors")
    answer = Session.open(folder, trained.memory).ask(QUESTION)
    assert answer.refused
    assert answer.text == ""
    assert 0 < answer.refusal < 1
    assert answer.facts


@pytest.mark.parametrize("question", ["", "   ", "x" * 1001])
def test_no_question_and_an_endless_one_are_refused(session, question):
    with pytest.raises(UserError, match=r"the question (is empty; ask|has 1001 characters; shorten)"):
        session.ask(question)


def test_a_saved_memory_holds_the_changes_and_the_other_files(session, trained, tmp_path):
    folder = shutil.copytree(trained.memory, tmp_path / "memory")
    session.upsert("Aland | capital | Nowhere")
    session.save(folder)
    assert (folder / "index.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["memory"], "nothing is left behind"
    reopened = Session.open(trained.adapter, folder)
    assert len(reopened.system.memory) == len(session.system.memory)
    assert reopened.system.memory.find("Q0", "P36", "local:Nowhere") is not None
    assert reopened.ask(QUESTION).facts == session.ask(QUESTION).facts
    slots = reopened.system.memory.slots
    assert "the capital of Aland" in slots.texts, "the other layout can open it too"


def test_k_is_how_many_facts_are_read(trained):
    assert len(Session.open(trained.adapter, trained.memory, k=1).ask(QUESTION).facts) == 1
    with pytest.raises(UserError, match=r"--k: memory.k \(99\) must not exceed memory.N \(12\)"):
        Session.open(trained.adapter, trained.memory, k=99)
    with pytest.raises(UserError, match=r"--k: memory.k must be at least 1, not 0"):
        Session.open(trained.adapter, trained.memory, k=0)


def test_facts_of_a_file_serve_as_a_memory(trained):
    session = Session.open(trained.adapter, facts=trained.facts)
    assert len(session.system.memory) == 3
    assert session.origin == trained.facts
    assert session.system.memory.find("France", "capital", "Paris") is not None


def test_the_example_facts_serve_where_there_is_no_memory(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session.open(trained.adapter)
    assert session.origin == start.EXAMPLES
    memory = session.system.memory
    assert len(memory) >= 40
    assert memory.find("France", "capital", "Paris") is not None


def test_the_trained_adapter_goes_before_the_shipped_one(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "PRETRAINED", trained.adapter)
    assert Session.open().adapter == trained.adapter
    mine = start.shared_paths().adapters / "ours"
    shutil.copytree(trained.adapter, mine)
    shutil.copytree(trained.memory, start.shared_paths().index)
    session = Session.open()
    assert session.adapter == mine
    assert session.origin == start.shared_paths().index


def test_no_adapter_at_all_names_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "PRETRAINED", tmp_path / "shipped")
    with pytest.raises(
        UserError, match=r"no adapter: tried models/train/ours and .*shipped; run `make repro`"
    ):
        Session.open()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"adapter\.json: not found; --adapter must name a folder that `train` wrote"),
        ("{", r"adapter\.json: damaged .*train again"),
        ("[]", r"adapter\.json: damaged"),
        ("{}", r"adapter\.json: damaged \(KeyError\('method'\)\)"),
        ('{"method": {"alpha": 1.0, "gate": 2}}', r"not an adapter of `ours` \(unknown key method\.gate"),
    ],
)
def test_another_adapter_is_refused(text, words, trained, tmp_path):
    folder = shutil.copytree(trained.adapter, tmp_path / "ours")
    (folder / "adapter.json").unlink()
    if text is not None:
        (folder / "adapter.json").write_text(text)
    with pytest.raises(UserError, match=words):
        Session.open(folder, trained.memory)


def test_a_session_that_writes_keeps_each_change_at_once(trained, tmp_path):
    folder = tmp_path / "mine"
    session = Session.open(trained.adapter, folder, trained.facts, write=True)
    session.upsert("France | capital | Lyon")
    asked = session.ask("What is the capital of France?").facts
    other = Session.open(trained.adapter, folder)
    assert other.system.memory.find("France", "capital", "local:Lyon") is not None
    assert other.ask("What is the capital of France?").facts == asked
    other.upsert("France | capital | Nice")
    with pytest.raises(UserError, match=r"mine: keeps its changes in a journal; open the session with write"):
        other.save(folder)
    with pytest.raises(UserError, match=r"\(this one\) has it open for writing"):
        Session.open(trained.adapter, folder, write=True)
    session.save(folder)
    session.close()
    again = Session.open(trained.adapter, folder, write=True)
    again.delete("France | capital | Lyon")
    again.close()
    other.close()
    last = Session.open(trained.adapter, folder).system.memory
    assert last.find("France", "capital", "local:Lyon") is None
    assert last.find("France", "currency", "euro") is not None


def test_writing_begins_with_the_index_or_the_examples(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"changes are to be kept, but in no folder; name one by --memory"):
        Session.open(trained.adapter, write=True)
    session = Session.open(trained.adapter, "examples", write=True)
    assert session.system.memory.find("France", "capital", "Paris") is not None
    session.close()
    with pytest.raises(UserError, match=r"examples: is there already, so it can't begin with"):
        Session.open(trained.adapter, "examples", trained.facts, write=True)
    shutil.copytree(trained.memory, start.shared_paths().index)
    session = Session.open(trained.adapter, "mine", write=True)
    assert session.system.memory.find("Q0", "P36", "C0") is not None
    session.close()


def test_an_answer_is_streamed_as_it_is_told_at_once(session):
    answer, pieces = session.stream(f"  {QUESTION} ")
    told = session.ask(QUESTION)
    assert "".join(pieces) == told.text
    assert answer.question == QUESTION
    assert (answer.text, answer.facts, answer.refusal) == ("", told.facts, told.refusal)
    with pytest.raises(UserError, match="the question is empty"):
        session.stream(" ")


def test_a_compiled_session_answers_alike_and_follows_changes(session, trained):
    other = Session.open(trained.adapter, trained.memory)
    other.compile(backend="")

    def alike(question):
        found, expected = other.ask(question), session.ask(question)
        assert (found.text, found.refused) == (expected.text, expected.refused)
        assert [fact.text for fact in found.facts] == [fact.text for fact in expected.facts]
        assert [fact.weight for fact in found.facts] == pytest.approx(
            [fact.weight for fact in expected.facts]
        )
        answer, pieces = other.stream(question)
        assert "".join(pieces) == found.text
        assert (answer.facts, answer.refused) == (found.facts, found.refused)
        return {fact.text for fact in found.facts}

    alike(QUESTION)
    for each in (session, other):
        each.upsert("Aland | capital | Peru", "Peru | currency | euro")
    alike(QUESTION)
    for each in (session, other):
        each.as_of("2020")
    alike(QUESTION)
    for each in (session, other):
        each.as_of("")
    other.compile(backend="")
    alike(QUESTION)
