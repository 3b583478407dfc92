"""Lessons on rows of one's choice: which rows there are, what is paired with what, and that it is learned."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError, UserError
from pipeline.evaluation.learning import DESCRIPTION, PAIRINGS, School, drawn, last, paired, thinned
from pipeline.kg.facts import read_table
from pipeline.memory.encoder import TextEncoder
from pipeline.model.reader import Reader
from pipeline.model.system import Example
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import CPU, LIGHTNING, training
from tests.tiny import SmallWorld, memory_settings

ENTRY = "atlaskv:every=2,grounding=0,answer_tokens=4"


def school(lm: LanguageModel, encoder: Encoder, folder: Path, **changes: Any) -> School:
    device = torch.device("cpu")
    given: dict[str, Any] = {"entry": ENTRY, "memory": memory_settings(), "trainer": CPU, "steps": 3}
    given |= {"train": training(folder / "unused"), "scratch": folder} | changes
    return School(reader=Reader(lm, device), encoder=TextEncoder(encoder, device), **given)


def test_rows_are_those_that_training_may_see(world: SmallWorld) -> None:
    graph, kv = world.graph, read_table(world.paths.kv, "kv")
    every = drawn(graph, kv, 1000, 0)
    folds, live = graph.facts["fold"].to_pylist(), graph.live(0)
    for row in every["entity"].to_pylist():
        assert row["side"] == "tail"
        assert folds[row["fact"]] == "train"
        assert live[row["fact"]]
        assert row["value"] == graph.labels[graph.triples[row["fact"], 2]]
    heads = {fold: set() for fold in folds}
    for fact, fold in enumerate(folds):
        heads[fold].add(graph.labels[graph.triples[fact, 0]])
    described = {row["key"].removeprefix(DESCRIPTION) for row in every["event"].to_pylist()}
    assert described
    assert described <= heads["train"]
    assert not any(described & names for fold, names in heads.items() if fold != "train")
    few = drawn(graph, kv, 2, 1)
    assert [len(rows) for rows in few.values()] == [2, 2]
    assert few["entity"].to_pylist() != drawn(graph, kv, 2, 2)["entity"].to_pylist()
    with pytest.raises(UserError, match="has no entity rows of the fold train"):
        drawn(graph, kv.slice(0, 0), 2, 0)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30), st.integers(0, 5))
def test_pairings_permute_what_they_say(values: list[str], seed: int) -> None:
    assert paired(values, "right", seed) == (values, values)
    held, answers = paired(values, "memory", seed)
    assert answers == values
    assert sorted(held) == sorted(values)
    assert paired(values, "both", seed) == (held, held)


@LIGHTNING
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_lesson_trains_and_leaves_nothing_behind(
    pairing: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    rows = drawn(world.graph, read_table(world.paths.kv, "kv"), 8, 0)["entity"]
    taught = school(lm, encoder, tmp_path)
    system, curve = taught.taught(rows, pairing, 0, "tiny")
    assert len(curve) == 3
    again, same = taught.taught(rows, pairing, 0, "tiny")
    assert curve.equals(same)
    for one, other in zip(system.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    held, _ = paired(rows["value"].to_pylist(), pairing, 0)
    facts = {system.memory.fact(row).tail_label for row in range(len(system.memory))}
    assert facts == set(held)
    keys = {system.memory.slots.texts[row] for row in range(len(system.memory.slots))}
    assert keys == set(rows["key"].to_pylist()), "keys are those of the table, whatever the noun"
    assert list(tmp_path.iterdir()) == []
    example = Example("?", ("Aland",), (0,))
    assert system.target(example, [0]) == " Aland", "what is learned is what the question came with"


def test_what_reads_no_vectors_is_refused(lm: LanguageModel, encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'rag' reads no vectors; choose kblam or atlaskv"):
        school(lm, encoder, tmp_path, entry="rag")
    rated = training(tmp_path, learning_rates={"atlaskv": 0.5})
    assert school(lm, encoder, tmp_path, train=rated).train.learning_rate == 0.5
    assert school(lm, encoder, tmp_path, entry="kblam:every=2,grounding=0", train=rated).train == rated


def test_a_curve_is_thinned_to_means() -> None:
    curve = pd.DataFrame({"step": range(10), "lm_loss": [float(step) for step in range(10)]})
    assert thinned(curve, 5) == {"step": [0.5, 2.5, 4.5, 6.5, 8.5], "loss": [0.5, 2.5, 4.5, 6.5, 8.5]}
    assert thinned(curve, 99)["loss"] == curve["lm_loss"].tolist()
    assert last(curve) == [9.0]
    assert last(curve[:3]) == [2.0]
