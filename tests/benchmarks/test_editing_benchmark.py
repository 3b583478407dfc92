"""The editing benchmark on the small world: its figures, what stops a stream, and wrong values."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarks.editing import Editing, _edits, editing
from pipeline.config import ConfigError, UserError
from pipeline.evaluation.editing import Measured, Untouched, answers, nats
from pipeline.evaluation.editors import editor_of
from pipeline.evaluation.summary import Bootstrap
from pipeline.kg.facts import FOLDS, Graph
from pipeline.model.editing.request import changed, counterfactual
from pipeline.model.reader import Reader
from pipeline.weights import LanguageModel
from tests.evaluation.toys import graph as toy_graph
from tests.model.editing.small_edits import EDITS, PROMPT, finetune
from tests.model.tiny_systems import CPU
from tests.tiny import SmallWorld

QUICK = "descent.steps=2,asking.contexts=[],asking.answer_tokens=3"
SHARED = "optimisation.steps=2,statistics.tokens=100,asking.contexts=[],asking.answer_tokens=3"
ENTRIES = [
    f"rome:layer=1,{SHARED}",
    f"memit:layers=[0,1],batch=3,{SHARED}",
    f"finetune:layers=[1],{QUICK}",
]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    lines = [f"Ships of line {number} sail to the harbour of Aland with coffee." for number in range(9)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")


def settings(**changes: Any) -> Editing:
    values: dict[str, Any] = {
        "entries": ENTRIES,
        "source": "changes",
        "folds": list(FOLDS),
        "singles": 2,
        "same_end": 0,
    }
    values |= {"streams": [2, 4], "asked": 3, "first": 2, "untouched": 3, "untouched_each": 2}
    values |= {"wordings": ["Which {noun} is given for {name}?"], "texts": "texts.txt", "text_count": 3}
    values |= {"texts_each": 1, "text_tokens": 8, "examples": 1, "seeds": [0], "bootstrap_samples": 50}
    return Editing(**(values | changes))


def measured(asked: Editing, world: SmallWorld, lm: LanguageModel, out: Path) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    editing.run(asked, lm, CPU, world.paths, out)  # type: ignore[attr-defined]
    told: dict[str, Any] = json.loads((out / "editing.json").read_text())
    return told


def test_every_editor_is_measured_after_singles_and_streams(
    world: SmallWorld, lm: LanguageModel, tmp_path: Path
) -> None:
    told = measured(settings(seeds=[0, 1], streams=[2, 3]), world, lm, tmp_path / "out")
    assert set(told["figures"]) == set(ENTRIES)
    assert told["lm"] == lm.name
    for entry, found in told["figures"].items():
        assert set(found) == {"method", "single", "2", "3"}
        for name in ("single", "2", "3"):
            row = found[name]
            for figure in ("efficacy", "generality", "locality", "probability of the bare answer"):
                assert 0 <= row[figure]["low"] <= row[figure]["mean"] <= row[figure]["high"] <= 1
            assert row["efficacy"]["n"] == (6 if name == "3" else 4)
            assert row["perplexity"]["ratio"]["mean"] > 0
            assert row["seconds an edit"]["mean"] > 0
            assert row["MB an edit"] == pytest.approx(row["MB held"] / row["edits"], abs=1e-3)
            assert len(row["examples"]) == 1
            assert ("retention of the first" in row) == (name != "single")
        assert found["single"]["MB held"] == found["2"]["MB held"], entry


def test_subjects_that_end_alike_are_left_out(world: SmallWorld) -> None:
    words = ["The {noun} of {name}?"]
    free, bound = (
        _edits(
            world.graph, settings(source="counterfactual", same_end=limit, singles=12, streams=[]), words, 0
        )
        for limit in (0, 1)
    )
    assert len({edit.subject.split()[-1] for edit in free}) < 12
    assert len({edit.subject.split()[-1] for edit in bound}) == 12


def test_a_stream_that_breaks_is_told_and_the_next_entry_starts_from_the_bare_model(
    world: SmallWorld, lm: LanguageModel, tmp_path: Path
) -> None:
    broken = f"finetune:layers=[1],{QUICK},descent.learning_rate=inf"
    entries = [broken, ENTRIES[2]]
    told = measured(settings(entries=entries, singles=0), world, lm, tmp_path / "both")["figures"]
    assert set(told[broken]) == {"method", "2"}
    assert "the loss at step 1 is" in told[broken]["2"]["stopped"][0]
    alone = measured(settings(entries=[ENTRIES[2]], singles=0), world, lm, tmp_path / "alone")["figures"]
    for length in ("2", "4"):
        after, before = told[ENTRIES[2]][length], alone[ENTRIES[2]][length]
        assert after["perplexity"] == before["perplexity"]
        assert after["examples"] == before["examples"]


def test_a_model_that_is_not_edited_differs_in_nothing(lm: LanguageModel, tmp_path: Path) -> None:
    editor = editor_of(finetune(), Reader(lm, "cpu"))
    asked = ["What is the anthem of Cland?", "What is the capital of France?"]
    untouched = Untouched.of(editor, asked, [("The capital", " of Aland"), ("Tell", " me the anthem.")])
    rows = Measured.nothing()
    rows.compare(editor, untouched)
    rows.ask(editor, EDITS, ["Which {noun} is given for {name}?"])
    told = rows.figures(Bootstrap(50, 0))
    assert told["locality"]["mean"] == 1.0
    assert told["perplexity"]["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    bare = told["probability of the bare answer"]
    assert bare["bare"] == pytest.approx(bare["mean"])
    assert told["new above former"] == {"n": 0}, "no fact of these had another value"
    turned = [untouched.some(turn, 1, 1).questions[0] for turn in range(3)]
    assert turned == [untouched.questions[place % len(untouched.questions)] for place in range(3)]


def test_nats_are_those_of_the_answers_tokens(lm: LanguageModel) -> None:
    reader = Reader(lm, "cpu")
    one, two = (nats(reader, PROMPT, [q], [a])[0] for q, a in (("Why?", "Paris"), ("Who is it?", "the euro")))
    assert np.allclose(
        nats(reader, PROMPT, ["Why?", "Who is it?"], ["Paris", "the euro"]), [one, two], atol=1e-4
    )
    said = answers(editor_of(finetune(), reader), [f"Question {number}?" for number in range(40)])
    assert len(said) == 40


def test_changes_of_a_graph_become_edits() -> None:
    found = changed(toy_graph(), 0, 1, ["The {noun} of {name}?", "Which {noun} has {name}?"])
    [edit] = found
    assert (edit.subject, edit.noun, edit.target) == ("Cland", "capital", "Lyon")
    assert edit.questions == ("The capital of Cland?", "Which capital has Cland?")
    assert edit.answers == ("Lyon", "Nice")
    assert edit.former == ("Paris",)
    assert changed(toy_graph(), 0, 1, ["The {noun} of {name}?"], ["train"]) == []
    assert changed(toy_graph(), 1, 1, ["The {noun} of {name}?"]) == []


def test_facts_as_they_are_not_are_other_tails_of_the_relation(world: SmallWorld) -> None:
    graph: Graph = world.graph
    edits = counterfactual(graph, 0, ["The {noun} of {name}?"], FOLDS, 10, 0)
    assert len(edits) == len({(edit.subject, edit.noun) for edit in edits}) == 10
    live = graph.triples[graph.live(0)]
    for edit in edits:
        assert edit.target not in edit.former
        tails = {graph.labels[t] for _, r, t in live if graph.nouns[r] == edit.noun}
        held = {
            graph.labels[t]
            for h, r, t in live
            if graph.nouns[r] == edit.noun and graph.labels[h] == edit.subject
        }
        assert edit.target in tails
        assert set(edit.former) == held
    assert counterfactual(graph, 0, ["The {noun} of {name}?"], FOLDS, 10, 0) == edits
    assert counterfactual(graph, 0, ["The {noun} of {name}?"], FOLDS, 10, 1) != edits


def test_wrong_values_are_named(world: SmallWorld, lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"900 edits are asked for, but there are \d+ in the folds .*counterfactual"
    ):
        measured(settings(singles=900), world, lm, tmp_path)
    with pytest.raises(UserError, match=r"none\.txt: not found.*editing\.texts=''"):
        measured(settings(texts="none.txt"), world, lm, tmp_path)
    with pytest.raises(ConfigError, match=r"'none': there is no 'none' in conf/method"):
        measured(settings(entries=["none"]), world, lm, tmp_path)
    empty = replace(world.paths, kv=tmp_path)
    with pytest.raises(UserError):
        editing.run(settings(), lm, CPU, empty, tmp_path)  # type: ignore[attr-defined]
    for changes, text in [
        ({"entries": []}, "editing.entries and editing.seeds must not be empty"),
        ({"source": "other"}, "editing.source must be one of changes, counterfactual, not 'other'"),
        ({"folds": ["none"]}, "editing.folds must be some of train, valid"),
        ({"streams": [3, 2]}, "editing.streams must hold rising numbers from 1"),
        ({"streams": [], "singles": 0}, "editing.singles or editing.streams must ask for an edit"),
        ({"asked": 0}, "editing.asked must be at least 1"),
        ({"wordings": ["What?"]}, "editing.wordings must hold"),
    ]:
        with pytest.raises(ValueError, match=text):
            settings(**changes)
