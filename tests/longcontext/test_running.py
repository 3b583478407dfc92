from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.config import UserError
from pipeline.longcontext.context import FullKV
from pipeline.longcontext.running import Runner
from tests.tiny import tiny_decoder

FAMILIES = ("llama", "qwen2", "gpt_neox")


def decoder(family: str) -> Any:
    torch.manual_seed(0)
    return tiny_decoder(family, vocabulary=97).eval().requires_grad_(False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_full_cache_read_in_chunks_computes_what_the_library_computes(family: str, chunk: int) -> None:
    lm = decoder(family)
    ids = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(1))
    right = lm(ids).logits
    runner, context = Runner(lm, chunk), FullKV(lm.config.num_hidden_layers)
    torch.testing.assert_close(runner.prompt(ids[:, :30], context, asked=5), right[:, 29], rtol=0, atol=1e-4)
    rest = runner.step(ids[:, 30:], context, logits=10)
    torch.testing.assert_close(rest, right[:, 30:], rtol=0, atol=1e-4)
    torch.testing.assert_close(lm(ids).logits, right)  # nothing is left behind


def test_what_is_generated_and_lost_is_what_the_library_generates_and_loses() -> None:
    lm = decoder("llama")
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(2))
    runner = Runner(lm, chunk=5)
    said = runner.generate(ids, FullKV(runner.layers), asked=3, limit=6)
    right = lm.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert said.tolist() == right[:, 12:].tolist()

    context = FullKV(runner.layers)
    logits = runner.prompt(ids, context, asked=3)
    answer = said.clone()
    answer[1, 4:] = -100
    lost = runner.loss(logits, answer, context)
    whole = lm(right).logits[:, 11:-1].log_softmax(-1).gather(2, said[..., None])[..., 0]
    torch.testing.assert_close(lost, torch.stack([-whole[0].mean(), -whole[1, :4].mean()]), rtol=0, atol=1e-4)


def test_states_of_the_watched_layer_are_those_that_enter_it() -> None:
    lm = decoder("llama")
    ids = torch.randint(97, (1, 9), generator=torch.Generator().manual_seed(3))
    right = lm(ids, output_hidden_states=True).hidden_states[2]

    seen: list[torch.Tensor] = []

    class Watching(FullKV):
        watched = 2

        def observe(self, states: torch.Tensor) -> None:
            seen.append(states)

    context = Watching(lm.config.num_hidden_layers)
    Runner(lm, chunk=4).prompt(ids, context, asked=1)
    torch.testing.assert_close(torch.cat(seen, dim=1), right, rtol=0, atol=1e-5)


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=16, n_layer=2, n_head=2))


@pytest.mark.parametrize("model", [gpt2, lambda: decoder("gemma3")])
def test_a_model_without_rotary_positions_shared_by_all_layers_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="longcontext needs rotary positions shared by all layers"):
        Runner(model(), chunk=4)


@pytest.mark.parametrize("asked", [0, 13])
def test_a_prompt_needs_tokens_to_ask_with(asked: int) -> None:
    runner = Runner(decoder("llama"), chunk=4)
    with pytest.raises(ValueError, match=f"asked is {asked}, of prompts of 12 tokens"):
        runner.prompt(torch.zeros(1, 12, dtype=torch.long), FullKV(runner.layers), asked=asked)
