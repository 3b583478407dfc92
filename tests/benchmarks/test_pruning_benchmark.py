"""The pruning benchmark on the small world: every axis of every entry, and its settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.pruning import Pruning, pruning
from pipeline.config import UserError
from pipeline.model.adapter import save_adapter
from pipeline.model.settings import AtlasKv
from pipeline.reporting.paper import paper_figures
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_grounding import settings as grounding
from tests.model.tiny_systems import CPU, opened, ours, vector
from tests.tiny import SmallWorld, memory_settings

ATLAS = "atlaskv:every=2,grounding=0,answer_tokens=4@atlas"
OURS = f"ours:{SIZES},memory.backend=hikvp@mine"


def settings(**changes: Any) -> Pruning:
    values: dict[str, Any] = {"entries": [ATLAS, OURS], "facts": 0, "answered": 2}
    return Pruning(**(values | {"roots": [1, 99], "inner": [1], "leaves": [1]} | changes))


def test_every_axis_of_every_entry_is_measured(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    save_adapter(opened(vector(AtlasKv, roots=2), world, lm, encoder), tmp_path / "0" / "atlas", {})
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    asked = grounding(questions=4)
    for facts in (0, 9):
        out = tmp_path / str(facts or "all")
        out.mkdir(exist_ok=True)
        pruning.run(  # type: ignore[attr-defined]
            settings(facts=facts), asked, memory_settings(entities=60), lm, encoder, CPU, paths, out
        )
        told = json.loads((out / "pruning.json").read_text())
        steps = [("flat", 0), ("roots", 1), ("roots", 99), ("inner", 1), ("leaves", 1)]
        names = [ATLAS.split("@")[0], OURS.split("@")[0]]
        rows = told["figures"]
        assert [(row["entry"], row["axis"], row["kept"]) for row in rows] == [
            (name, *step) for name in names for step in steps
        ]
        assert told["facts"] == (facts or int(world.graph.live(0).sum()))
        for row in rows:
            assert 0 <= row["acc1"]["mean"] <= row["acc5"]["mean"] <= 1
            assert (row["questions"], row["answered"]) == (4, 2)
            assert row["em"] is not None
        [drawn] = paper_figures(out)
        assert [len(table.rows) for table in drawn.tables] == [6, 6, 6], "methods times figures"
        for flat, all_ in ((rows[0], rows[2]), (rows[5], rows[7])):
            assert flat["scored"] == 1
            assert all_["roots"] < 99
            assert all_["acc1"] == flat["acc1"], "nothing is pruned where every cluster is kept"


def test_settings_that_can_not_be_are_named(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    for changes, words in (
        ({"entries": []}, r"pruning\.entries must not be empty"),
        ({"facts": -1}, r"pruning\.facts and pruning\.answered must be at least 0"),
        ({"inner": [0]}, r"pruning\.roots, inner and leaves must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            settings(**changes)
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path)
    asked, held = settings(entries=[OURS], facts=2), memory_settings()
    with pytest.raises(UserError, match=r"pruning\.facts: 2 facts can't hold those of 4 questions"):
        pruning.run(  # type: ignore[attr-defined]
            asked, grounding(questions=4), held, lm, encoder, CPU, paths, tmp_path
        )
