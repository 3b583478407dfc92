"""The fold-in benchmark on a small graph: what it reports, that ratios are those of its MRRs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarks.foldin import KINDS, FoldIn, compared, dense, foldin
from pipeline.config import UserError
from tests.kg.graphs import paths, write_graph
from tests.rotations import laptop


def settings(**changes: Any) -> FoldIn:
    values: dict[str, Any] = {"newcomers": 4, "tuning": 3, "least": 2, "questions": 2, "rounds": 1}
    values |= {"estimates": ["mean", "median", "discriminant"], "weights": ["equal", "rarity"]}
    return FoldIn(**(values | {"ridges": [1.0], "support": [1, 3], "bootstrap_samples": 50} | changes))


def test_every_estimate_is_compared_with_training_again(tmp_path: Path) -> None:
    where = paths(tmp_path)
    write_graph(where.tables, heads=40, linked=True, changes=False)
    for out in ("first", "second"):
        (tmp_path / out).mkdir()
        foldin.run(settings(), laptop(dimension=4, epochs=2), where, 0, tmp_path / out)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "first" / "foldin.json").read_text())
    names = ["mean:plain", "mean:chosen", "median:plain", "median:chosen", "discriminant:chosen"]
    assert list(told["figures"]) == names
    assert told["training"]["without"]["epoch"] > 0
    assert set(told["others"]) == {"without", "with"}
    for row in told["figures"].values():
        assert 0 < row["others"] < 1
        assert set(KINDS) < set(row)
        assert row["both"]["questions"] == row["asked"]["questions"] + row["answer"]["questions"]
        for kind in KINDS:
            figures = row[kind]
            assert figures["newcomers"] == 4
            ratio = figures["mrr"]["mean"] / figures["retrained_mrr"]["mean"]
            assert figures["ratio"]["mean"] == pytest.approx(ratio)
            assert 0 < figures["mrr"]["low"] <= figures["mrr"]["high"] <= 1
            assert figures["hits@1"] <= figures["mrr"]["mean"] <= 1
            assert sum(part["newcomers"] for part in figures["by_support"]) == 4
    same = json.loads((tmp_path / "second" / "foldin.json").read_text())["figures"]
    assert [row["both"] for row in same.values()] == [row["both"] for row in told["figures"].values()]
    chosen, plain = told["figures"]["mean:chosen"], told["figures"]["mean:plain"]
    assert chosen["tuning_mrr"] >= plain["tuning_mrr"], "the plain one is among those to choose from"


def test_a_system_is_as_good_as_itself() -> None:
    sums = np.array([[2, 1.0, 1, 1, 2], [1, 0.25, 0, 0, 1], [3, 1.5, 1, 2, 2]])
    same = dict.fromkeys(KINDS, sums)
    told = compared(same, same, np.array([1, 2, 5]), settings())["asked"]
    assert told["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert told["mrr"]["mean"] == pytest.approx(2.75 / 6)
    assert [(part["from"], part["newcomers"]) for part in told["by_support"]] == [(1, 2), (3, 1)]
    half = compared({kind: sums * [1, 0.5, 1, 1, 1] for kind in KINDS}, same, np.ones(3), settings())["both"]
    assert half["ratio"]["low"] == half["ratio"]["high"] == 0.5


def test_facts_are_numbered_densely_and_once() -> None:
    facts = np.array([[9, 4, 2], [2, 7, 9], [9, 4, 2]])
    assert dense(facts).tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"newcomers": 0}, "foldin.newcomers must be at least 1, not 0"),
        ({"least": 1}, "foldin.least must be at least 2"),
        ({"estimates": ["mode"]}, "foldin.estimates must list some of mean, median, discriminant"),
        ({"ridges": [0.0]}, "foldin.ridges must list values above 0"),
        ({"support": [2, 3]}, "foldin.support must rise from 1"),
    ],
)
def test_settings_that_can_not_be_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**changes)


def test_a_graph_that_is_too_small_is_named(tmp_path: Path) -> None:
    where = paths(tmp_path)
    write_graph(where.tables, heads=10, linked=True, changes=False)
    with pytest.raises(UserError, match="lower them or foldin"):
        foldin.run(settings(newcomers=500), laptop(), where, 0, tmp_path)  # type: ignore[attr-defined]
