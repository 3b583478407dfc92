"""The benchmark of recall among many entities: its vectors are as it claims, and figures are told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.benchmarks import crowd
from pipeline.benchmarks.crowd import Crowd, streamed
from pipeline.benchmarks.recall_scale import RecallScale, recall_scale
from pipeline.config import UserError
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.test_grounding import settings as grounding
from tests.model.tiny_systems import CPU, opened, ours
from tests.tiny import SmallWorld, memory_settings


def settings(**changes: Any) -> RecallScale:
    values: dict[str, Any] = {"method": f"ours:{SIZES}@mine", "names": 0, "encoded": 40, "seed": 0}
    values |= {"entities": [90, 400], "depths": [1, 90], "share": 0.5, "on_processor": 3, "probes": 30}
    return RecallScale(**(values | changes))


def made(count: int, size: int, nearest: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    monkeypatch.setattr(crowd, "BLOCK", 50)
    random = torch.manual_seed(0)
    names = torch.randn(count, size, generator=random) + 0.6 * torch.randn(size, generator=random)
    return Crowd(F.normalize(names, dim=1).half(), nearest, 3)


def rows_of(held: Crowd, start: int, end: int) -> torch.Tensor:
    return torch.cat([block for _, block in held.blocks(start, end)])


def test_vectors_are_the_same_however_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held = made(70, 32, torch.tensor([0.8]), monkeypatch)
    every = rows_of(held, 0, 500)
    assert torch.equal(every[:70], held.names)
    assert [start for start, _ in held.blocks(60, 200)] == [60, 70, 120, 170]
    assert torch.equal(rows_of(held, 63, 333), every[63:333])
    rows = torch.tensor([3, 69, 70, 211, 499, 0])
    assert torch.equal(held.of(rows), every[rows])
    assert not torch.equal(Crowd(held.names, torch.tensor([0.8]), 4).of(rows), every[rows])


def test_mixtures_lie_as_names_do_and_as_near_to_one_as_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    held = made(300, 256, torch.tensor([0.75, 0.9]), monkeypatch)
    mixed = rows_of(held, 300, 8300).float()
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(8000), atol=2e-3, rtol=0)
    torch.testing.assert_close(mixed.mean(dim=0), held.mean, atol=0.02, rtol=0)
    spread = (mixed - held.mean).pow(2).sum(dim=1).mean() / (held.names - held.mean).pow(2).sum(dim=1).mean()
    assert float(spread) == pytest.approx(1, abs=0.03)
    nearest = (mixed @ held.names.float().T).amax(dim=1)
    assert float((nearest - 0.75).abs().minimum((nearest - 0.9).abs()).quantile(0.9)) < 0.05
    assert 0.3 < float((nearest > 0.82).float().mean()) < 0.7


def test_the_nearest_others_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    held = made(70, 32, torch.tensor([0.8]), monkeypatch)
    every = rows_of(held, 0, 300).float()
    products = every @ every.T
    best = streamed(every[:9], held.blocks(0, 300), 12)
    right = products[:9].topk(12)
    torch.testing.assert_close(best.products, right.values)
    assert torch.equal(best.rows, right.indices)
    rows = torch.tensor([0, 80, 299])
    products.fill_diagonal_(-1)
    torch.testing.assert_close(held.nearest_other(rows, 0, 300), products[rows].amax(dim=1))


def test_what_is_found_is_told(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "BLOCK", 64)
    save_adapter(opened(ours(), world, lm, encoder), tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    recall_scale.run(  # type: ignore[attr-defined]
        settings(), grounding(questions=8), memory_settings(), lm, encoder, CPU, paths, tmp_path
    )
    told = json.loads((tmp_path / "recall_scale.json").read_text())
    figures = told["figures"]
    assert figures["recombined"] == 40
    assert [row["entities"] for row in figures["sizes"]] == [90, 400]
    for row in figures["sizes"]:
        counts = [row[name]["questions"] for name in row if name != "entities"]
        assert counts == [counts[0], counts[0], 3]
        for way in ("codes, all compared by their estimate", "codes, chosen by first bits"):
            recall = row[way]["recall"]
            assert 0 <= recall["1"]["mean"] <= recall["90"]["mean"] <= 1
            assert 0 < row[way]["share of exact's first 90 among its own"] <= 1
    for way in ("exact", "codes, all compared by their estimate"):
        assert figures["sizes"][0][way]["recall"]["90"]["mean"] == 1, "all are found, those asked about too"
    nearest = figures["product with the nearest other one"]
    assert len(nearest) == 5
    for levels in nearest.values():
        assert list(levels.values()) == sorted(levels.values())
        assert levels["95 %"] <= 1.001
    for levels in figures["products of questions with others"].values():
        assert list(levels.values()) == sorted(levels.values(), reverse=True)


def test_what_can_not_be_is_named(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"entities": []},
        {"depths": [5, 1]},
        {"entities": [0]},
        {"encoded": 0},
        {"names": -1},
        {"share": 0.0},
    )
    for change in changes:
        with pytest.raises(ValueError, match="recall_scale"):
            settings(**change)
    paths = world.indexed(encoder)
    with pytest.raises(UserError, match=r"recall_scale\.method: rag has no queries of its own"):
        recall_scale.run(  # type: ignore[attr-defined]
            settings(method="rag"), grounding(), memory_settings(), lm, encoder, CPU, paths, tmp_path
        )
