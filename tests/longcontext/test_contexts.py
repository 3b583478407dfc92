"""What holds for every baseline, whatever it keeps."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.context import Context, Held
from pipeline.longcontext.contexts import FACTORIES, build
from pipeline.longcontext.running import Runner
from tests.longcontext.baseline_settings import baselines, decoder, text

FAMILIES = ("llama", "qwen2", "gpt_neox")
BUDGETED = ("streaming", "snapkv", "pyramidkv", "per_head", "razor")
EVICTING = ("snapkv", "pyramidkv", "per_head", "razor")
UNTIL_THE_ANSWER = ("full", "quest", *EVICTING)
ANSWER = 6


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_CACHE", str(tmp_path_factory.getbasetemp()))


def context(name: str, runner: Runner, length: int, **changes: Any) -> Context:
    return build(name, runner, baselines(**changes), Lengths(length, ANSWER))


def per_token(lm: Any) -> int:
    """Bytes of a token's keys and values in one layer's head."""
    size = lm.config.hidden_size // lm.config.num_attention_heads
    return 2 * int(getattr(lm.config, "head_dim", None) or size) * 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FACTORIES)
def test_with_room_for_everything_each_computes_what_the_library_computes(name: str, family: str) -> None:
    lm = decoder(family)
    ids = text(2, 45)
    right = lm(ids).logits
    runner = Runner(lm, chunk=8)
    reading = context(name, runner, 40)
    torch.testing.assert_close(runner.prompt(ids[:, :40], reading, asked=5), right[:, 39], rtol=0, atol=1e-4)
    for place in range(40, 45):
        logits = runner.step(ids[:, place : place + 1], reading, logits=1)
        torch.testing.assert_close(logits[:, 0], right[:, place], rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_that_holds_for_any_length_and_chunk(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FACTORIES)))
    length = data.draw(st.integers(2, 50))
    chunk = data.draw(st.integers(1, 20))
    asked = data.draw(st.integers(1, length))
    lm = decoder()
    ids = text(2, length + ANSWER)
    right = lm(ids).logits
    runner = Runner(lm, chunk)
    reading = context(name, runner, length, budget=1.0)
    logits = runner.prompt(ids[:, :length], reading, asked)
    torch.testing.assert_close(logits, right[:, length - 1], rtol=0, atol=2e-4)
    rest = runner.step(ids[:, length:], reading, logits=ANSWER)  # the answer at once, as a loss reads it
    torch.testing.assert_close(rest, right[:, length:], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_an_answer_read_at_once_is_computed_as_token_by_token(name: str) -> None:
    lm = decoder()
    ids = text(2, 64 + ANSWER)
    runner = Runner(lm, chunk=16)
    small = baselines(budget=0.5)
    changes = {"landmarks": type(small.landmarks)(chunk=4, chunks=2, window=30, offload=False)}

    def answered(widths: list[int]) -> torch.Tensor:
        reading = context(name, runner, 64, budget=0.5, **changes)
        runner.prompt(ids[:, :64], reading, asked=8)
        said, start = [], 64
        for width in widths:
            said.append(runner.step(ids[:, start : start + width], reading, logits=width))
            start += width
        return torch.cat(said, dim=1)

    # what is counted anew as tokens come (positions, pages, chunks) is so at the ends of what is read at once
    width = {"streaming": 1, "quest": 3, "landmarks": 2}.get(name, 5)
    torch.testing.assert_close(answered([width]), answered([1] * width), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_rows_do_not_touch_each_other(name: str) -> None:
    lm = decoder()
    ids = text(3, 60)
    runner = Runner(lm, chunk=16)

    def said(rows: torch.Tensor) -> torch.Tensor:
        reading = context(name, runner, 60, budget=0.5)
        runner.prompt(rows, reading, asked=8)
        return runner.step(rows[:, :1], reading, logits=1)

    alone = torch.cat([said(row[None]) for row in ids])
    torch.testing.assert_close(said(ids), alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", BUDGETED)
def test_methods_of_one_budget_hold_the_same_bytes(name: str) -> None:
    lm = decoder("gpt_neox")  # three key-value heads a layer
    runner = Runner(lm, chunk=16)
    reading = context(name, runner, 100, budget=0.6)
    runner.prompt(text(2, 100), reading, asked=8)
    runner.step(text(2, 1), reading, logits=1)  # room for the answer is made at the latest now
    token = 2 * runner.layers * runner.groups * per_token(lm)
    held = reading.held()
    assert held == Held(held.device)
    prompt = held.device - counters(reading) - ANSWER * token
    if name == "razor":  # what its window can't share out evenly stays unused
        assert 59 * token < prompt <= 60 * token
    else:
        assert prompt == 60 * token


def counters(reading: Any) -> int:
    """Bytes of what tells which tokens are kept."""
    every = getattr(reading, "kept", [])
    parts = [part for kept in every for part in (kept.counts, kept.weights) if part is not None]
    return sum(part.nbytes for part in parts)


@pytest.mark.parametrize("name", UNTIL_THE_ANSWER)
def test_what_evicts_holds_the_whole_prompt_until_it_is_over(name: str) -> None:
    lm = decoder()
    runner = Runner(lm, chunk=16)
    reading = context(name, runner, 64, budget=0.3)
    reading.asking = False
    runner.step(text(1, 64), reading, logits=0)
    everything = runner.layers * runner.groups * 64 * per_token(lm)
    assert reading.held().device >= everything
    reading.ready()
    if name in EVICTING:
        runner.step(text(1, 1), reading, logits=1)
        assert reading.held().device < 0.6 * everything
    else:
        assert reading.held().device >= everything


@pytest.mark.parametrize("offload", [False, True])
def test_windows_do_not_grow_with_the_text_but_for_the_chunks_of_landmarks(offload: bool) -> None:
    lm = decoder()
    runner = Runner(lm, chunk=16)
    small = {"landmarks": type(baselines().landmarks)(chunk=4, chunks=2, window=6, offload=offload)}
    held: dict[str, list[Held]] = {"streaming": [], "landmarks": []}
    for name, rows in held.items():
        for length in (100, 200, 300):
            reading = context(name, runner, length, budget=20, **small)
            runner.prompt(text(1, length), reading, asked=8)
            rows.append(reading.held())
    assert held["streaming"] == [Held(runner.layers * runner.groups * (20 + ANSWER) * per_token(lm))] * 3
    token = runner.layers * runner.groups * per_token(lm)
    # a hundred tokens are 25 chunks: a landmark of half a token's bytes each (Growing keeps one part)
    on_device, on_host = (0, 100 * token) if offload else (100 * token, 0)
    for before, after in pairwise(held["landmarks"]):
        assert after.host - before.host == on_host
        assert after.device - before.device == 25 * token // 2 + on_device


def test_unknown_names_and_budgets_that_leave_nothing_are_refused() -> None:
    runner = Runner(decoder(), chunk=16)
    with pytest.raises(UserError, match="no context 'h2o'; there is full, streaming"):
        context("h2o", runner, 60)
    with pytest.raises(UserError, match="the budget is 3 tokens, no more than the 4 sinks"):
        context("streaming", runner, 60, budget=3)
    for name in ("snapkv", "pyramidkv"):
        with pytest.raises(UserError, match="the budget is 4 of 60 tokens, but the last 4 are kept"):
            runner.prompt(text(1, 60), context(name, runner, 60, budget=4), asked=8)
    with pytest.raises(UserError, match=r"budget is 0.1, but 1 of 4 heads keep all 60 tokens"):
        runner.prompt(text(1, 60), context("razor", runner, 60, budget=0.1), asked=8)


@pytest.mark.parametrize("name", FACTORIES)
def test_nothing_but_the_context_s_own_window_limits_the_length(name: str) -> None:
    lm = decoder()  # trained, as its configuration says, on 512 positions
    runner = Runner(lm, chunk=128)
    reading = context(name, runner, 700, budget=0.5)
    logits = runner.prompt(text(1, 700), reading, asked=8)
    assert logits.isfinite().all()
    assert runner.step(text(1, 1), reading, logits=1).isfinite().all()
