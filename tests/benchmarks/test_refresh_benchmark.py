"""The refresh sweep on small graphs: when each policy trains, what it spends, and its settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benchmarks.refresh import Refresh, reciprocal, refresh
from pipeline.config import UserError
from tests.kg.graphs import paths, write_graph
from tests.kg.test_placing import placing
from tests.kg.test_rotate import some_rotations, some_vectors
from tests.rotations import laptop


def settings(**changes: Any) -> Refresh:
    values: dict[str, Any] = {"start": 0.6, "chunks": 4, "asked": 0.3, "intervals": [1, 2, 0]}
    values |= {"threshold": 0.5, "share": 0.2, "placing": placing()}
    return Refresh(**(values | changes))


def swept(folder: Path, changes: bool, **values: Any) -> dict[str, Any]:
    where = paths(folder)
    write_graph(where.tables, heads=40, linked=True, changes=changes)
    refresh.run(settings(**values), laptop(dimension=4, epochs=1), where, 0, folder)  # type: ignore[attr-defined]
    told: dict[str, Any] = json.loads((folder / "refresh.json").read_text())
    assert (folder / "refresh.png").read_bytes()[1:4] == b"PNG"
    return told


def test_policies_train_at_their_chunks_and_agree_right_after_it(tmp_path: Path) -> None:
    figures = swept(tmp_path, changes=False)["figures"]
    trained = {policy: [row["refreshed"] for row in told["steps"]] for policy, told in figures.items()}
    assert trained["1"] == [True] * 4
    assert trained["2"] == [False, True, False, True]
    assert trained["0"] == [False] * 4
    assert any(trained["drift"])
    assert not all(trained["drift"])
    for told in figures.values():
        for place, row in enumerate(told["steps"]):
            assert 0 < row["mrr_so_far"] <= 1
            if row["refreshed"]:
                assert row["mrr_so_far"] == figures["1"]["steps"][place]["mrr_so_far"]
                assert row["new_entities"] == 0
                assert row["training_seconds"] > 0
            else:
                assert row["training_seconds"] == 0
                assert row["new_entities"] > 0
    never = [row["drift_moved"] for row in figures["0"]["steps"]]
    assert never == sorted(never), "nothing but training brings drift down here"
    assert figures["0"]["training_seconds"] == 0


def test_snapshots_are_chunks_and_facts_may_go(tmp_path: Path) -> None:
    told = swept(tmp_path, changes=True, intervals=[0], share=0.99)
    assert sum(told["removed"]) > 0
    steps = told["figures"]["drift"]["steps"]
    assert len(steps) == len(told["removed"])
    assert steps[-1]["drift_mean"] > 0
    assert told["figures"]["drift"]["refreshes"] == 0


def test_an_entity_without_a_vector_counts_nothing() -> None:
    vectors, relations = some_vectors(4, 3), some_rotations(1, 3)
    vectors[1] = vectors[0] * relations[0]
    vectors[3] = vectors[2] * relations[0]
    asked = torch.tensor([[0, 0, 1], [2, 0, 3]]).numpy()
    old = torch.tensor([True, True, True, False]).numpy()
    for there, right in ((torch.tensor([True] * 4), 1.0), (torch.tensor([True, True, True, False]), 0.5)):
        both, of_old = reciprocal(vectors, there, relations, asked, asked, old, laptop(dimension=3), asked)
        assert both == right
        assert of_old == pytest.approx(1.0 if right == 1 else 2 / 3)
    with pytest.raises(UserError, match="an answer that was there from the start"):
        reciprocal(vectors, there, relations, asked, asked, ~(old | True), laptop(dimension=3), asked)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start": 1.0}, "refresh.start and refresh.asked must be in"),
        ({"chunks": 0}, "refresh.chunks must be at least 1"),
        ({"intervals": [1, 1]}, r"refresh.intervals must list different numbers from 0, not \[1, 1\]"),
    ],
)
def test_settings_that_can_not_be_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)
