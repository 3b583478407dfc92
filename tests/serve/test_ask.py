import json
import subprocess
import sys

import pytest

from pipeline.ask import ask
from pipeline.config import ROOT, UserError
from pipeline.serve.session import Session
from pipeline.serve.start import EXAMPLES, PRETRAINED

QUESTION = "What is the capital of Aland?"


@pytest.fixture
def words(trained):
    return ["--adapter", str(trained.adapter), "--memory", str(trained.memory)]


def test_the_answer_comes_with_its_facts_and_where_they_are(words, trained):
    text = ask([QUESTION, *words, "--k", "2"])
    table = text.split("\n\n")[1].splitlines()
    assert table[0].split() == ["read", "from", "weight"]
    assert len(table) == 3
    assert all(line.startswith("The ") for line in table[1:])
    assert f"Memory: {len_of(trained)} facts, {trained.memory}. Adapter: {trained.adapter}." in text
    assert "for this call only" not in text


def len_of(trained):
    import pyarrow.parquet as pq

    return pq.read_table(trained.memory / "facts.parquet").num_rows


def test_changes_are_shown_and_hold_for_one_call(words):
    change = ["--upsert", "Aland | capital | Nowhere", "--delete", "Borland | capital | Borland City"]
    text = ask([QUESTION, *words, *change])
    assert "- The capital of Borland is Borland City.\n" in text
    assert "+ The capital of Aland is Nowhere.\n- The capital of Aland is Aland City. (superseded)" in text
    assert "new entity 'Nowhere'" in text
    assert "The changes were for this call only; --save keeps them." in text
    assert "Aland City. (superseded)" in ask([*words, *change[:2]]), "a change needs no question"


def test_saved_changes_stay(trained, tmp_path):
    words = ["--adapter", str(trained.adapter), "--memory", str(tmp_path / "mine")]
    told = ask([*words, "--facts", str(trained.facts), "--upsert", "France | capital | Lyon", "--save"])
    assert f"Saved to {tmp_path / 'mine'}." in told
    kept = ask([*words, "--delete", "France | capital | Lyon"])
    assert "- The capital of France is Lyon." in kept


def test_changes_are_saved_to_a_folder_that_keeps_a_journal(trained, tmp_path):
    Session.open(trained.adapter, tmp_path / "mine", trained.facts, write=True).close()
    words = ["--adapter", str(trained.adapter), "--memory", str(tmp_path / "mine")]
    change = ["--upsert", "France | capital | Lyon"]
    assert "for this call only" in ask([*words, *change])
    assert f"Saved to {tmp_path / 'mine'}." in ask([*words, *change, "--save"])
    assert "- The capital of France is Lyon." in ask([*words, "--delete", "France | capital | Lyon"])


def test_json_holds_all_that_is_printed(words):
    found = json.loads(ask([QUESTION, *words, "--json", "--upsert", "Aland | capital | Nowhere"]))
    assert found["answer"]["question"] == QUESTION
    assert {"key", "text", "weight", "via"} == found["answer"]["facts"][0].keys()
    assert found["changes"][0]["superseded"] == ["The capital of Aland is Aland City."]
    assert found["adapter"] == words[1]


def test_the_experiments_are_one_command(trained, tmp_path):
    out = tmp_path / "new" / "experiments.json"
    words = ["--adapter", str(trained.adapter), "--facts", str(trained.facts)]
    text = ask([*words, "--experiments", "--out", str(out)])
    assert text.count("onfirmed:") == 3
    assert json.loads(out.read_text())["facts"] == 3


@pytest.mark.parametrize("words", [[], [""], ["  ", "--k", "3"]])
def test_nothing_to_do_shows_the_help(words):
    assert ask(words).startswith("usage: python -m pipeline.ask")


def test_options_that_do_not_go_together_are_refused(words, trained):
    with pytest.raises(UserError, match=r"--facts and --memory: give one of them"):
        ask([QUESTION, *words, "--facts", str(trained.facts)])
    with pytest.raises(
        UserError, match=r"--save: the facts came from a file; name the folder .* by --memory"
    ):
        ask([*words[:2], "--facts", str(trained.facts), "--save", "--upsert", "A | b | c"])


def test_the_command_prints_one_line_where_it_fails(words, tmp_path):
    command = [sys.executable, "-m", "pipeline.ask", "x", *words, "--upsert", "Aland, capital, Nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected Head | relation | Tail, got 'Aland, capital, Nowhere'")
    assert len(done.stderr.splitlines()) == 1


def test_the_example_facts_are_well_formed():
    rows = [line.split("\t") for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 40
    assert {len(row) for row in rows} == {3}
    assert PRETRAINED.parent == ROOT / "models" / "pretrained"


def test_a_fact_may_say_when_it_holds_and_a_slot_tells_what_it_held(trained, tmp_path):
    words = ["--adapter", str(trained.adapter), "--memory", str(tmp_path / "mine")]
    dated = ["--upsert", "France | capital | Lyon", "--since", "1940", "--until", "1950", "--source", "atlas"]
    ask([*words, "--facts", str(trained.facts), *dated, "--save"])
    told = ask([*words, "--history", "France | capital"])
    lines = [line.split("  ")[0] for line in told.splitlines() if line.startswith("The capital of France")]
    assert lines == [f"The capital of France is {name}." for name in ("Lyon", "Paris")]
    assert "1940 to 1950 atlas" in told
    found = json.loads(ask([*words, "--search", "capital of France", "--as-of", "1945", "--json"]))["found"]
    assert "The capital of France is Lyon." in [one["text"] for one in found]
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert "The capital of France is Paris." in ask([*words, "--search", "capital of France"])
    with pytest.raises(UserError, match=r"expected Head \| relation, got 'France'"):
        ask([*words, "--history", "France"])
    with pytest.raises(UserError, match=r"the memory knows nothing of the anthem of France"):
        ask([*words, "--history", "France | anthem"])
    with pytest.raises(UserError, match=r"--since, --until and --source: they are of what --upsert writes"):
        ask([*words, "--source", "atlas", "--search", "x"])
    with pytest.raises(UserError, match=r"the end '1930' is not after the start '1940'"):
        ask([*words, "--upsert", "Peru | capital | Cusco", "--since", "1940", "--until", "1930"])
