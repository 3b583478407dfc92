"""The joint attention against a slow reference, and the injection against the model as it was."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.attention import NAME, FactTokens, attend, inject, joint_mask, reading
from pipeline.model.factreader import FactReader
from pipeline.model.reader import Reader
from tests.tiny import FAMILIES, tiny_language_model

LAYER = SimpleNamespace(layer_idx=1, is_causal=True, num_key_value_groups=3, training=False)
TEXTS = ["The capital of Aland is Aland City.", "The currency of Cland is euro."]


@pytest.fixture(scope="module", params=FAMILIES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_language_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


def slow(query: Tensor, key: Tensor, value: Tensor, facts: FactTokens, seen: Tensor, scale: float) -> Tensor:
    """Return softmax over the logits of facts and sequence, one query and one head at a time."""
    batch, heads, queries, size = query.shape
    shared = heads // key.shape[1]
    out = torch.zeros(batch, queries, heads, size)
    for b in range(batch):
        for h in range(heads):
            group = h // shared
            for t in range(queries):
                logits = [
                    query[b, h, t] @ k * scale + s
                    for k, s in zip(facts.keys[0][b, group], facts.shift[b], strict=True)
                ]
                logits += [
                    query[b, h, t] @ k * scale if see else torch.tensor(-math.inf)
                    for k, see in zip(key[b, group], seen[b, t], strict=True)
                ]
                weights = torch.softmax(torch.stack(logits), dim=0)
                values = torch.cat([facts.values[0][b, group], value[b, group]])
                out[b, t, h] = weights @ values
    return out


@pytest.mark.parametrize("mask", ["none", "boolean", "added"])
@pytest.mark.parametrize(("queries", "length"), [(4, 4), (1, 5), (2, 5)])
def test_attend_is_one_softmax_over_facts_and_sequence(mask: str, queries: int, length: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query, key, value = drawn(2, 6, queries, 8), drawn(2, 2, length, 8), drawn(2, 2, length, 8)
    shift = drawn(2, 3)
    shift[1, 2] = -math.inf
    facts = FactTokens(drawn(1, 2, 2, 3, 8), drawn(1, 2, 2, 3, 8), shift, 1)
    causal = torch.ones(queries, length, dtype=torch.bool).tril(length - queries).expand(2, -1, -1).clone()
    given: Tensor | None = None
    if mask != "none":
        causal[1, :, 0] = False  # padding on the left of the second question
        given = causal[:, None]
        if mask == "added":
            given = torch.zeros(given.shape).masked_fill(~given, torch.finfo(torch.float32).min)
    with reading(facts):
        found, weights = attend(LAYER, query, key, value, given, scaling=0.5)  # type: ignore[arg-type]
    assert weights is None
    expected = slow(query, key, value, facts, causal, 0.5)
    reachable = causal.any(dim=-1) | torch.isfinite(shift).any(dim=-1)[:, None]
    torch.testing.assert_close(found[reachable], expected[reachable], rtol=1e-5, atol=1e-5)


def test_the_mask_of_a_preallocated_cache_is_cut_to_its_keys() -> None:
    mask = torch.ones(1, 1, 2, 9, dtype=torch.bool)
    mask[..., 5:] = False
    joined = joint_mask(torch.zeros(1, 3), mask, torch.zeros(1, 1, 2, 4), 5)
    assert joined.shape == (1, 1, 2, 8)
    assert not joined.any()


def logits(reader: Reader, questions: list[str]) -> Tensor:
    tokens = reader.tokens(questions)
    positions = (tokens.mask.cumsum(dim=-1) - 1).clamp(min=0)
    out: Tensor = reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=positions).logits
    return out


@torch.no_grad()
def test_without_facts_the_injected_model_is_the_base_model_bit_for_bit(reader: Reader) -> None:
    questions = ["What is the capital of Aland?", "Why?"]
    former = reader.lm.config._attn_implementation
    before, answers = logits(reader, questions), reader.generate(reader.tokens(questions), 5)
    with inject(reader.lm):
        assert reader.lm.config._attn_implementation == NAME
        assert torch.equal(logits(reader, questions), before)
        assert reader.generate(reader.tokens(questions), 5) == answers
        with reading(None):
            assert torch.equal(logits(reader, questions), before)
    assert reader.lm.config._attn_implementation == former
    assert torch.equal(logits(reader, questions), before)


@torch.no_grad()
def test_facts_reach_the_injected_model_and_nobody_else(reader: Reader) -> None:
    facts = FactReader(reader, 1, 40, 1000).facts([TEXTS], torch.zeros(1, 2))
    base = logits(reader, ["Why?"])
    with inject(reader.lm), reading(facts):
        assert not torch.allclose(logits(reader, ["Why?"]), base, atol=1e-2)
    with reading(facts):
        assert torch.equal(logits(reader, ["Why?"]), base)


def test_the_former_attention_comes_back_after_an_exception(reader: Reader) -> None:
    former = reader.lm.config._attn_implementation
    with pytest.raises(ZeroDivisionError), inject(reader.lm):
        raise ZeroDivisionError
    assert reader.lm.config._attn_implementation == former
    empty = FactTokens(torch.zeros(1), torch.zeros(1), torch.zeros(1), 0)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError), reading(empty):
        raise ZeroDivisionError
    with torch.no_grad(), inject(reader.lm):
        assert logits(reader, ["Why?"]).isfinite().all()


@torch.no_grad()
def test_facts_at_probability_one_are_read_as_a_prefix_would_be(reader: Reader) -> None:
    """With no shift from layer 0 on, a fact that stands before the question is its prefix."""
    if reader.lm.config.model_type == "gemma3_text":
        pytest.skip("a sliding layer cuts a prefix off, and facts are never cut off")
    prefix = reader.tokenizer(TEXTS[0] + "\n", add_special_tokens=False)["input_ids"]
    question = reader.tokenizer("Why is that?", add_special_tokens=False)["input_ids"]
    whole = reader.lm(input_ids=torch.tensor([prefix + question])).logits[:, len(prefix) :]
    facts = FactReader(reader, 0, len(prefix), 1000).facts([[TEXTS[0]]], torch.zeros(1, 1))
    with inject(reader.lm), reading(facts):
        alone = reader.lm(input_ids=torch.tensor([question])).logits
    torch.testing.assert_close(alone, whole, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_order_of_facts_changes_nothing(reader: Reader) -> None:
    shift = torch.log_softmax(torch.tensor([[0.3, -1.0, 0.1]]), dim=-1)
    texts = [*TEXTS, "The anthem of Esland is unknown."]
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        facts = FactReader(reader, 1, 40, 1000).facts([[texts[i] for i in order]], shift[:, order])
        with inject(reader.lm), reading(facts):
            found.append(logits(reader, ["What is the currency of Cland?"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_fact_without_probability_is_as_if_absent(reader: Reader) -> None:
    facts = FactReader(reader, 1, 40, 1000)
    found = []
    for texts, shift in ((TEXTS, [[0.0, -1e4]]), (TEXTS[:1], [[0.0]]), (TEXTS[:1], [[0.0, 5.0]])):
        with inject(reader.lm), reading(facts.facts([texts], torch.tensor(shift))):
            found.append(logits(reader, ["Why?"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], found[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_batch_answers_as_its_questions_alone(reader: Reader) -> None:
    """Questions and facts of different lengths, so that both are padded."""
    questions = ["What is the official language of Aland?", "Why?"]
    texts, shift = [TEXTS, TEXTS[1:]], torch.tensor([[-0.1, -2.0], [0.0, 0.0]])
    facts = FactReader(reader, 1, 40, 1000)
    with inject(reader.lm):
        with reading(facts.facts(texts, shift)):
            together = logits(reader, questions)
        for row, question in enumerate(questions):
            with reading(facts.facts([texts[row]], shift[row : row + 1, : len(texts[row])])):
                alone = logits(reader, [question])
            torch.testing.assert_close(together[row, -alone.shape[1] :], alone[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_cached_decoding_is_full_recomputation(reader: Reader) -> None:
    questions = ["What is the official language of Aland?", "Why?"]
    facts = FactReader(reader, 1, 40, 1000).facts(
        [TEXTS, TEXTS[:1]], torch.tensor([[-0.5, -1.0], [0.0, 0.0]])
    )
    tokens = reader.tokens(questions)
    with inject(reader.lm), reading(facts):
        cached = reader.lm.generate(
            input_ids=tokens.ids, attention_mask=tokens.mask, max_new_tokens=6, do_sample=False,
            eos_token_id=None, pad_token_id=reader.stop,
        )  # fmt: skip
        ids, mask = tokens.ids, tokens.mask
        for _ in range(6):
            positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
            out = reader.lm(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            ids = torch.cat([ids, out.logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    assert torch.equal(cached, ids)


@torch.no_grad()
def test_a_layer_below_the_first_one_reads_nothing(reader: Reader) -> None:
    """States up to `first_layer` are those of the bare model; above they are not."""
    facts = FactReader(reader, 2, 40, 1000).facts([TEXTS], torch.zeros(1, 2))

    def states() -> Any:
        ids = reader.tokens(["Why?"]).ids
        return reader.lm(input_ids=ids, output_hidden_states=True).hidden_states

    bare = states()
    with inject(reader.lm), reading(facts):
        read = states()
    assert torch.equal(read[2], bare[2])
    assert not torch.allclose(read[3], bare[3], atol=1e-3)
