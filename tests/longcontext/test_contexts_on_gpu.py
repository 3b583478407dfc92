"""The baselines in bfloat16 on a GPU, eight texts at once, in a model shaped like the default one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.settings import Landmarks, Observation, Quest
from pipeline.longcontext.contexts import FACTORIES, build
from pipeline.longcontext.running import Runner
from tests.longcontext.baseline_settings import baselines

ROWS, ANSWER = 8, 4
ON_GPU = torch.cuda.is_available()
LENGTH, LAYERS = (16384, 30) if ON_GPU else (96, 2)
"""Without a GPU the same at a size that a CPU computes at once, so that this test is no surprise on one."""


def shaped_like_smollm2() -> Runner:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )
    lm = LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
    return Runner(lm.to("cuda" if ON_GPU else "cpu"), chunk=1024 if ON_GPU else 40)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return shaped_like_smollm2()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ids(runner: Runner) -> torch.Tensor:
    drawn = torch.randint(512, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return drawn.to(runner.lm.device)


@pytest.mark.parametrize("budget", [0.3, 1.0])
@pytest.mark.parametrize("name", FACTORIES)
def test_each_reads_a_batch_in_bfloat16(
    name: str, budget: float, runner: Runner, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    if name == "landmarks" and budget == 1 and ON_GPU:
        pytest.skip("all chunks beside each chunk of a long text: nobody does it, and memory is short")
    monkeypatch.setenv("KG_CACHE", str(cache))
    settings = baselines(
        budget=budget,
        snapkv=Observation(queries=16, pooling=7, pool="max"),
        per_head=Observation(queries=8, pooling=7, pool="max"),
        razor=replace(baselines().razor, tokens=64, repeats=4, induction=0.14, echo=0.01),
        quest=Quest(page=16, dense=1),
        landmarks=Landmarks(chunk=16, chunks=8 if budget < 1 else LENGTH, window=32, offload=ON_GPU),
    )

    def answered(name: str) -> torch.Tensor:
        context = build(name, runner, settings, Lengths(LENGTH, ANSWER))
        logits = [runner.prompt(ids, context, asked=16)]
        logits += [runner.step(ids[:, :1], context, logits=1)[:, 0] for _ in range(ANSWER)]
        return torch.stack(logits, dim=1).float()

    said = answered(name)
    assert said.isfinite().all()
    if budget == 1 and (name != "streaming" or runner.window > LENGTH):
        right = answered("full")
        assert (said - right).abs().max() < 0.2 * right.std()
