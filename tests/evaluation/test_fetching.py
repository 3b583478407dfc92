"""What a policy saves beside its warm start, and the lessons that lead there, at tiny scale."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.benchmarks.fetching import Fetching, fetching
from pipeline.config import UserError
from pipeline.evaluation.fetching import Measured, cheapest, compared, read_once, saved, ways
from pipeline.longcontext.lessons import FOLDS, TRAIN
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.running import Runner
from pipeline.longcontext.schooling import schooled
from pipeline.longcontext.settings import LongContext
from pipeline.longcontext_train import longcontext_train
from pipeline.weights import LanguageModel, load_language_model
from tests.longcontext.standins import long_context
from tests.longcontext.test_tasks import forget
from tests.model.tiny_systems import CPU, SILENT


def settings(**changes: Any) -> LongContext:
    """Return the least training, of needles alone, with other values of PPO."""
    found = long_context()
    training = found.training
    teaching = replace(training.teaching, tokens=1024, chunk=256, fillers=["classic"], asked=64)
    towers = replace(training.towers, kept=16, size=8)
    ppo = replace(training.ppo, **changes)
    return replace(found, training=replace(training, teaching=teaching, towers=towers, ppo=ppo))


def measured(blocks: Sequence[float], right: Sequence[float]) -> Measured:
    return Measured(np.array(blocks, float), np.array(right, float), np.zeros(len(blocks)))


def test_saved_is_the_share_of_the_warm_starts_blocks_of_all_seeds() -> None:
    policies = [measured([1, 0], [1, 0]), measured([1, 2], [1, 1])]
    starts = [measured([2, 2], [1, 0]), measured([2, 2], [1, 0])]
    told = saved(policies, starts, 1000, 0)
    assert told["saved"]["mean"] == pytest.approx(0.5)
    assert told["saved"]["low"] <= 0.5 <= told["saved"]["high"]
    assert told["right"]["wins"] == 1
    assert told["right"]["losses"] == 0
    assert told["policy right"]["mean"] == pytest.approx(0.75)
    assert told["warm right"]["mean"] == pytest.approx(0.5)


def test_one_who_fetches_more_saves_less_than_nothing() -> None:
    told = saved([measured([4, 4], [1, 1])], [measured([2, 2], [1, 1])], 100, 0)
    assert told["saved"] == {"mean": -1.0, "low": -1.0, "high": -1.0}


def test_the_cheapest_way_that_is_right_as_often_is_chosen_else_the_best() -> None:
    rows = [{"blocks": 4, "right": 0.9}, {"blocks": 1, "right": 0.5}, {"blocks": 2, "right": 0.8}]
    assert cheapest(rows, 0.8) == 2
    assert cheapest(rows, 0.4) == 1
    assert cheapest(rows, 0.95) == 0
    assert cheapest([{"blocks": 2, "right": 0.5}, {"blocks": 2, "right": 0.6}], 0.5) == 1


def test_the_first_phases_of_a_seed_count_for_every_price(lm: LanguageModel) -> None:
    longcontext = settings(beta=0.01)
    model, tokenizer = load_language_model(lm, torch.device("cpu"))
    runner = Runner(model, longcontext.training.teaching.chunk)
    answers = read_once(runner, tokenizer, longcontext, 0)
    assert set(answers) == set(FOLDS)
    steps: list[str] = []

    def tell(phase: str, row: dict[str, float]) -> None:
        steps.append(phase)

    first = schooled(runner, answers[TRAIN], longcontext.training, 0, tell)
    assert steps == ["warm"] * 5 + ["hybrid"] + ["ppo"]
    dear = settings(beta=1.0).training
    steps.clear()
    second = schooled(runner, answers[TRAIN], dear, 0, tell, first)
    assert steps == ["ppo"]
    assert second.curves["warm"] == first.curves["warm"]
    anew = schooled(runner, answers[TRAIN], dear, 0, tell)
    assert_same(second.ppo, anew.ppo)
    assert_same(second.warm, anew.warm)
    assert any(
        not torch.equal(one, other)
        for one, other in zip(first.ppo.parameters(), second.ppo.parameters(), strict=True)
    )
    figures, policy, _ = compared(first, answers, longcontext.training, lambda: None)
    assert len(figures["warm"]) == len(ways(longcontext.training)) == 3
    questions = len(answers["test"].recorded.lessons.rows)
    assert len(policy.blocks) == questions
    one_block = figures["warm"][0]
    assert one_block["test"]["blocks"] == 1.0


def assert_same(one: Retriever, other: Retriever) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=name)


def test_the_stage_writes_what_answers_and_what_it_came_to(lm: LanguageModel, tmp_path: Path) -> None:
    longcontext_train.run(settings(), lm, CPU, SILENT, 0, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert {phase: len(rows) for phase, rows in told["curves"].items()} == {"warm": 5, "hybrid": 1, "ppo": 1}
    assert set(told["questions"]) == set(FOLDS)
    assert all(set(kinds) == {"needle"} for kinds in told["questions"].values())
    policy, warm = (Retriever.load(tmp_path / f"{name}.safetensors") for name in ("retriever", "warm"))
    assert torch.equal(policy.whitening, warm.whitening)
    assert (tmp_path / "bases.safetensors").is_file()


def test_the_benchmark_tells_every_price_and_seed(lm: LanguageModel, tmp_path: Path) -> None:
    repeated = Fetching(seeds=[0, 1], betas=[0.01, 1.0])
    fetching.run(repeated, settings(), lm, CPU, 0, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "fetching.json").read_text(encoding="utf-8"))
    assert {"command", "commit", "machine", "settings"} <= told.keys()
    assert set(told["betas"]) == {"0.01", "1.0"}
    for row in told["betas"].values():
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        assert {"mean", "low", "high"} == row["together"]["saved"].keys()
        assert [len(run["curves"]["warm"]) for run in row["runs"]] == [5, 5]
    assert (tmp_path / "fetching.png").stat().st_size > 5_000


def test_nothing_to_repeat_is_an_error() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Fetching(seeds=[], betas=[0.01])


def test_missing_files_are_named_before_anything_is_trained(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path / "nowhere"))
    forget()
    longcontext = settings()
    teaching = replace(longcontext.training.teaching, sets=["nq"], passages=0.5)
    asked = replace(longcontext, training=replace(longcontext.training, teaching=teaching))
    with pytest.raises(UserError, match="nq-open-oracle"):
        longcontext_train.run(asked, lm, CPU, SILENT, 0, tmp_path / "out")  # type: ignore[attr-defined]
    forget()
