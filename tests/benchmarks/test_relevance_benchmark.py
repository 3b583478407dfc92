"""The relevance benchmark on a toy's evaluations: scores a split, a judge's, and settings that can't be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline.benchmarks.relevance import Relevance, relevance
from pipeline.config import CONF, ConfigError, UserError, section
from pipeline.reporting.paper import paper_figures
from pipeline.weights import Encoder
from tests.kg.services import ANSWER, Server
from tests.model.tiny_systems import CPU
from tests.reporting.test_report import evaluate, paths


def settings(**changes: Any) -> Relevance:
    values = OmegaConf.merge(OmegaConf.load(CONF / "relevance" / "default.yaml"), {"bootstrap_samples": 20})
    found: Relevance = section(Relevance, OmegaConf.merge(values, changes), "relevance")
    return found


def test_right_answers_score_one_and_others_less(encoder: Encoder, tmp_path: Path) -> None:
    evaluate(tmp_path, "ours", seed=0, folder="ours-0")
    evaluate(tmp_path, "ours", mistakes=[4], seed=1, folder="ours-1")
    evaluate(tmp_path, "rag", mistakes=[4, 5])
    asked = settings(splits=["unseen", "updated", "unanswerable"])
    relevance.run(asked, encoder, CPU, paths(tmp_path), 0, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "relevance.json").read_text())
    assert (told["encoder"], told["judge"], told["seeds"]) == ("tiny-bert", None, [0, 1])
    assert told["figures"].keys() == {"ours", "rag"}
    ours, rag = told["figures"]["ours"], told["figures"]["rag"]
    assert ours.keys() == rag.keys() == {"unseen", "updated"}, "no answer is right where none is"
    for found in (ours["updated"], rag["updated"]):
        assert found["questions"] == 1
        assert [found[name]["mean"] for name in ("precision", "recall", "f1")] == pytest.approx([1.0] * 3)
    assert rag["unseen"]["em"]["mean"] == 0.0
    assert rag["unseen"]["f1"]["mean"] < ours["unseen"]["f1"]["mean"] < 1
    assert ours["unseen"]["em"]["mean"] == 0.75
    [drawn] = paper_figures(tmp_path)
    assert len(drawn.tables[0].rows) == 4, "splits times methods"


def test_a_judge_is_asked_about_as_many_as_wanted(encoder: Encoder, tmp_path: Path) -> None:
    evaluate(tmp_path, "ours")
    right = {"choices": [{"message": {"content": "0.5"}}], "usage": ANSWER["usage"]}
    with Server([(200, right), (200, ANSWER)]) as server:
        asked = replace(settings(judged=5), endpoint=server.endpoint)
        relevance.run(asked, encoder, CPU, paths(tmp_path), 0, tmp_path)  # type: ignore[attr-defined]
    judge = json.loads((tmp_path / "relevance.json").read_text())["figures"]["ours"]["unseen"]["judge"]
    assert (judge["asked"], judge["unparsable"], judge["score"]["mean"], judge["tokens"]) == (2, 1, 0.5, 84)
    with Server([(401, {})]) as server:
        refused = replace(asked, endpoint=server.endpoint)
        with pytest.raises(UserError, match=r"relevance\.endpoint: .*HTTP 401.* relevance\.judged to 0"):
            relevance.run(refused, encoder, CPU, paths(tmp_path), 0, tmp_path)  # type: ignore[attr-defined]


def test_settings_that_can_not_be_are_named(encoder: Encoder, tmp_path: Path) -> None:
    for changes, words in (
        ({"splits": []}, r"relevance\.splits must not be empty"),
        ({"judged": -1}, r"relevance\.judged must be at least 0"),
        ({"instruction": "{question} {answers}"}, r"relevance\.instruction must hold \{said\}"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings(**changes)
    evaluate(tmp_path, "ours")
    with pytest.raises(UserError, match=r"ours answered no question of two_hop; it has seen, unseen"):
        relevance.run(  # type: ignore[attr-defined]
            settings(splits=["two_hop"]), encoder, CPU, paths(tmp_path), 0, tmp_path
        )
