"""The decoder of fixed shapes against the one whose tensors grow, bare and with facts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.model.attention import FactTokens, inject, reading
from pipeline.model.decoder import Decoder
from pipeline.model.factreader import FactReader
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader
from tests.tiny import FAMILIES, tiny_language_model

QUESTIONS = ["What is the capital of Aland?", "Why?", "What language does one speak in Cland, and where?"]
TEXTS = [["The capital of Aland is Aland City."], ["a", "The currency of Cland is euro."], ["b"]]


@pytest.fixture(scope="module", params=[name for name in FAMILIES if "gemma" not in name])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_language_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


@torch.no_grad()
def test_bare_answers_are_those_of_the_growing_cache(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    expected = reader.generate(tokens, 6)
    decoder = Decoder(reader, 3, tokens.ids.shape[1] + 5, 6, backend="")
    with decoder.attached():
        assert decoder.generate(tokens) == expected
        assert decoder.generate(tokens) == expected
    assert reader.generate(tokens, 6) == expected


@torch.no_grad()
@pytest.mark.parametrize("first_layer", [0, 1])
def test_answers_with_facts_are_those_of_the_growing_cache(reader: Reader, first_layer: int) -> None:
    tokens = reader.tokens(QUESTIONS)
    shift = torch.tensor([[0.0, 0.0], [-0.5, -1.0], [-0.1, 0.0]])
    facts = FactReader(reader, first_layer, 40, 1000).facts(TEXTS, shift)
    with inject(reader.lm), reading(facts):
        expected = reader.generate(tokens, 6)
        logits = reader.lm(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            position_ids=(tokens.mask.cumsum(-1) - 1).clamp(min=0),
        ).logits[:, -1]
    decoder = Decoder(reader, 3, tokens.ids.shape[1], 6, facts.shift.shape[1] + 3, first_layer, backend="")
    with decoder.attached():
        assert torch.equal(decoder.prefill(tokens, facts), logits.argmax(-1))
        assert decoder.generate(tokens, facts) == expected
        bare = decoder.generate(tokens)
    assert bare == reader.generate(tokens, 6)


@torch.no_grad()
def test_merged_weights_compute_what_the_change_adds_and_are_gone_afterwards(reader: Reader) -> None:
    names = {
        name.split(".")[-1] for name, module in reader.lm.named_modules() if hasattr(module, "in_features")
    }
    projection = "q_proj" if "q_proj" in names else "query_key_value"
    change = LowRank(reader.lm, [projection], 1, 2, 4.0)
    for parameter in change.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 9, 2]])
    before = {name: value.clone() for name, value in reader.lm.state_dict().items()}
    bare = reader.lm(input_ids=ids).logits
    with change.attached(reader.lm):
        expected = reader.lm(input_ids=ids).logits
    with change.merged(reader.lm):
        found = reader.lm(input_ids=ids).logits
    assert not torch.allclose(bare, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in reader.lm.state_dict().items())


@torch.no_grad()
def test_what_does_not_fit_is_an_error_that_says_so(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    with pytest.raises(UserError, match=r"3 questions with .* don't fit a decoder that was made for 2"):
        Decoder(reader, 2, 99, 3, backend="").prefill(tokens)
    with pytest.raises(UserError, match=r"with 4 and 0"):
        Decoder(reader, 3, 4, 3, backend="").prefill(tokens)


def test_layers_with_a_window_are_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    name = next(name for name in FAMILIES if "gemma" in name)
    reader = Reader(tiny_language_model(tmp_path_factory.mktemp(name), name), "cpu")
    with pytest.raises(UserError, match=r"gemma.*: layers with a window"):
        Decoder(reader, 1, 8, 4, backend="")


def said(decoder: Decoder, questions: list[str], facts: FactTokens | None = None) -> list[str]:
    with decoder.attached():
        return decoder.generate(decoder.reader.tokens(questions), facts)


def test_prefill_and_step_are_compiled_once_each_whatever_else_goes_on(tmp_path: Path) -> None:
    """Over three batches of three sizes, with another decoder in turns, as the benchmark of speed asks."""
    reader = Reader(tiny_language_model(tmp_path), "cpu")
    change = LowRank(reader.lm, ["q_proj", "o_proj"], 1, 2, 4.0)
    for parameter in change.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    compiled = 0

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    for size in (1, 2, 3):
        made = [
            (Decoder(reader, size, 48, 4, backend=backend), Decoder(reader, size, 48, 4, 64, 1, backend))
            for backend in (counting, "")
        ]
        for turn in range(3):
            asked = [QUESTIONS[(turn + place) % 3] for place in range(size)]
            texts = [TEXTS[(turn + place) % 3] for place in range(size)]
            facts = FactReader(reader, 1, 40, 1000).facts(texts, torch.zeros(size, 2))
            reader.early_states(asked, 2)
            found = []
            for bare, reads in made:
                found.append(said(bare, asked))
                with change.merged(reader.lm):
                    found.append(said(reads, asked, facts))
            assert found[:2] == found[2:]
            assert compiled == 4 * size
