from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.weights import Encoder

SHORT_TEXTS = st.lists(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=20), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(SHORT_TEXTS)
def test_a_text_has_one_unit_vector_whatever_it_stands_beside(texts: TextEncoder, words: list[str]) -> None:
    together = texts.encode(words)
    assert together.shape == (len(words), texts.dimension)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(words)), atol=1e-5, rtol=0)
    for vector, word in zip(together, words, strict=True):
        torch.testing.assert_close(vector, texts.encode([word])[0], atol=1e-5, rtol=1e-4)


def test_equal_texts_are_encoded_once_and_the_order_is_kept(texts: TextEncoder) -> None:
    batches: list[list[int]] = []

    def note(given: Iterable[list[int]]) -> Iterable[list[int]]:
        batches.extend(given)
        return batches

    words = ["Paris", "a longer text", "Paris", "Lyon", *["Lyon"] * 20]
    vectors = texts.encode(words, note)
    assert batches == [[0, 1, 2]]
    assert torch.equal(vectors[0], vectors[2])
    assert torch.equal(vectors[3], vectors[23])
    assert not torch.allclose(vectors[0], vectors[3])
    torch.testing.assert_close(vectors[1], texts.encode(["a longer text"])[0], atol=1e-5, rtol=1e-4)


def test_texts_go_through_in_batches_of_the_section(texts: TextEncoder) -> None:
    sizes: list[int] = []

    def note(given: Iterable[list[int]]) -> Iterable[list[int]]:
        for batch in given:
            sizes.append(len(batch))
            yield batch

    texts.encode([str(number) for number in range(19)], note)
    assert sizes == [8, 8, 3]


def test_a_long_text_is_cut(texts: TextEncoder) -> None:
    words = "what is the capital of France " * 20
    cut, longer = texts.encode([words, words + "and of Aland"])
    torch.testing.assert_close(cut, longer)
    assert not torch.allclose(*texts.encode(["what is the capital", "what is the capital of Aland"]))


def test_the_vector_is_the_mean_of_the_states_of_the_tokens(texts: TextEncoder, encoder: Encoder) -> None:
    from pipeline.weights import load_encoder

    model, tokenizer = load_encoder(encoder, "cpu")
    with torch.no_grad():
        states = model(**tokenizer("the currency", return_tensors="pt")).last_hidden_state[0]
    mean = states.mean(dim=0)
    torch.testing.assert_close(texts.encode(["the currency", "a much longer text"])[0], mean / mean.norm())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cpu_computes_in_float32_whatever_the_section_says(
    texts: TextEncoder, encoder: Encoder, dtype: str
) -> None:
    halved = TextEncoder(Encoder(**(vars(encoder) | {"dtype": dtype})), "cpu")
    assert torch.equal(halved.encode(["Aland"]), texts.encode(["Aland"]))
