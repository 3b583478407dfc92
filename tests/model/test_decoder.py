"""The decoder of fixed shapes against the one whose tensors grow, bare and with facts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import UserError
from pipeline.model.arena import FactArena, Read
from pipeline.model.attention import inject, reading
from pipeline.model.decoder import Decoder
from pipeline.model.factreader import FactReader
from pipeline.model.lowrank import LowRank
from pipeline.model.parts import with_layers
from pipeline.model.places import attend_once
from pipeline.model.reader import Reader, Tokens
from tests.tiny import FAMILIES, tiny_language_model

QUESTIONS = ["What is the capital of Aland?", "Why?", "What language does one speak in Cland, and where?"]
TEXTS = [["The capital of Aland is Aland City."], ["a", "The currency of Cland is euro."], ["b"]]
SHIFTS = [[0.0, 0.0], [-0.5, -1.0], [-0.1, 0.0]]


@pytest.fixture(scope="module", params=[name for name in FAMILIES if "gemma" not in name])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_language_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


@torch.no_grad()
def test_bare_answers_are_those_of_the_growing_cache(reader: Reader) -> None:
    tokens, prompts = reader.tokens(QUESTIONS), reader.prompts(QUESTIONS)
    expected = reader.generate(tokens, 6)
    decoder = Decoder(reader, 3, tokens.ids.shape[1] + 5, 6, backend="")
    assert decoder.generate(prompts) == expected
    assert decoder.generate(prompts) == expected
    assert reader.generate(tokens, 6) == expected


@torch.no_grad()
@pytest.mark.parametrize("first_layer", [0, 1])
def test_answers_with_facts_are_those_of_the_growing_cache(reader: Reader, first_layer: int) -> None:
    tokens, prompts = reader.tokens(QUESTIONS), reader.prompts(QUESTIONS)
    facts = FactReader(reader, first_layer, 40, 1000)
    with inject(reader.lm), reading(facts.facts(TEXTS, torch.tensor(SHIFTS))):
        expected = reader.generate(tokens, 6)
        logits = reader.lm(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            position_ids=(tokens.mask.cumsum(-1) - 1).clamp(min=0),
        ).logits[:, -1]
    arena = FactArena(facts, 200)
    read = arena.read(TEXTS, SHIFTS)
    decoder = Decoder(reader, 3, tokens.ids.shape[1], 6, arena, [0, read.width + 3, 999], backend="")
    assert torch.equal(decoder.prefill(prompts, read), logits.argmax(-1))
    assert decoder.generate(prompts, read) == expected
    assert decoder.generate(prompts) == reader.generate(tokens, 6) != expected
    read = Read(
        [*read.places[:2], np.tile(read.places[2], 90)], [*read.shifts[:2], np.tile(read.shifts[2], 90)]
    )
    assert decoder.generate(prompts, read)[:2] == expected[:2]


@torch.no_grad()
def test_layers_in_two_parts_compute_what_the_whole_does(reader: Reader) -> None:
    ids = torch.tensor([[1, 5, 9, 2]])
    below, above = with_layers(reader.lm, 0, 2), with_layers(reader.lm, 2, reader.layers)
    states = below.base_model(input_ids=ids).last_hidden_state
    assert torch.equal(states, reader._states(Tokens(ids, torch.ones_like(ids), ids), 2))
    found = above(inputs_embeds=states, use_cache=False).logits
    torch.testing.assert_close(found, reader.lm(input_ids=ids).logits)


def test_one_query_a_head_attends_as_torch_has_it() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, width, 8, generator=generator) for width in (4, 17, 17))
    mask = torch.randn(2, 1, 4, 17, generator=generator)
    mask[0, ..., 5:] = torch.finfo(torch.float32).min
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.4)
    torch.testing.assert_close(attend_once(query, key, value, mask, 0.4), expected)


def changed(reader: Reader) -> LowRank:
    names = {
        name.split(".")[-1] for name, module in reader.lm.named_modules() if hasattr(module, "in_features")
    }
    change = LowRank(reader.lm, ["q_proj" if "q_proj" in names else "query_key_value"], 1, 2, 4.0)
    for parameter in change.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return change


@torch.no_grad()
def test_applied_weights_compute_what_the_change_adds_and_share_all_others(reader: Reader) -> None:
    change = changed(reader)
    ids = torch.tensor([[1, 5, 9, 2]])
    before = {name: value.clone() for name, value in reader.lm.state_dict().items()}
    bare = reader.lm(input_ids=ids).logits
    with change.attached(reader.lm):
        expected = reader.lm(input_ids=ids).logits
    other = change.applied(reader.lm)
    found = other(input_ids=ids).logits
    assert not torch.allclose(bare, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(reader.lm(input_ids=ids).logits, bare)
    assert all(torch.equal(value, before[name]) for name, value in reader.lm.state_dict().items())
    held = {value.data_ptr() for value in reader.lm.parameters()}
    assert sum(value.data_ptr() not in held for value in other.parameters()) == len(list(change.up))


@torch.no_grad()
def test_what_does_not_fit_is_an_error_that_says_so(reader: Reader) -> None:
    prompts = reader.prompts(QUESTIONS)
    with pytest.raises(UserError, match=r"3 questions with .* don't fit a decoder that was made for 2"):
        Decoder(reader, 2, 99, 3, backend="").prefill(prompts)
    with pytest.raises(UserError, match=r"with .* tokens don't fit a decoder that was made for 3 with 4"):
        Decoder(reader, 3, 4, 3, backend="").prefill(prompts)
    decoder = Decoder(reader, 3, 64, 1, backend="")
    decoder.prefill(prompts)
    decoder.step()
    with pytest.raises(UserError, match="answers of more than 1 tokens"):
        decoder.step()
    arena = FactArena(FactReader(reader, 1, 40, 1000), 100)
    with pytest.raises(UserError, match=r"\d+ tokens of facts don't fit a decoder that was made for 8"):
        Decoder(reader, 3, 64, 1, arena, [8], backend="").prefill(prompts, arena.read(TEXTS, SHIFTS))


def test_layers_with_a_window_are_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    name = next(name for name in FAMILIES if "gemma" in name)
    reader = Reader(tiny_language_model(tmp_path_factory.mktemp(name), name), "cpu")
    with pytest.raises(UserError, match=r"gemma.*: layers with a window"):
        Decoder(reader, 1, 8, 4, backend="")


@torch.no_grad()
def test_an_arena_keeps_what_was_read_last_and_no_more_than_it_holds(reader: Reader) -> None:
    facts = FactReader(reader, 1, 40, 1000)
    texts = [f"The capital of Aland is {number}." for number in range(5)]
    [expected] = facts.prefill(texts[:1])
    width = expected.shape[3]
    arena = FactArena(facts, 2 * width + 1)
    computed: list[str] = []
    plain = facts.prefill

    def counting(texts: Any) -> Any:
        computed.extend(texts)
        return plain(texts)

    facts.prefill = counting  # type: ignore[method-assign]
    for turn, text in enumerate([*texts[:2], texts[0], texts[2], texts[0], texts[1]]):
        read = arena.read([[text]], [[-1.0 * turn]])
        assert read.shifts[0].tolist() == [-1.0 * turn] * width
        torch.testing.assert_close(
            arena.states[:, :, :, read.places[0]].transpose(0, 1), plain([text])[0], rtol=0, atol=1e-5
        )
    assert computed == [texts[0], texts[1], texts[2], texts[1]]
    arena.clear()
    assert arena.read([[texts[0]], []], [[0.0], []]).places[1].tolist() == []
    assert computed[-1] == texts[0]
    with pytest.raises(UserError, match=rf"method.fact_cache holds {2 * width + 1} tokens, fewer"):
        arena.read([texts], [[0.0] * 5])


def test_prefill_and_step_are_compiled_once_each_whatever_else_goes_on(tmp_path: Path) -> None:
    """Over three batches of three sizes, with another decoder in turns, as the benchmark of speed asks."""
    reader = Reader(tiny_language_model(tmp_path), "cpu")
    facts = FactReader(reader, 1, 40, 1000)
    arena = FactArena(facts, 500)
    reads = copy.copy(reader)
    reads.lm = changed(reader).applied(reader.lm)
    compiled = 0

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    for size in (1, 2, 3):
        made = [
            (Decoder(reader, size, 48, 4, backend=backend), Decoder(reads, size, 48, 4, arena, [64], backend))
            for backend in (counting, "")
        ]
        for turn in range(3):
            asked = reader.prompts([QUESTIONS[(turn + place) % 3] for place in range(size)])
            read = arena.read([TEXTS[(turn + place) % 3] for place in range(size)], [[0.0, 0.0]] * size)
            reader.early_states(QUESTIONS, 2)
            found = []
            for bare, with_facts in made:
                found += [bare.generate(asked), with_facts.generate(asked, read)]
            assert found[:2] == found[2:]
            assert compiled == 5 * size
