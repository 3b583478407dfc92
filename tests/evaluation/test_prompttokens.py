"""Prompts are counted as they are generated from, however the model computes them."""

import pytest

from pipeline.evaluation.majority import Majority
from pipeline.evaluation.methods import build
from pipeline.evaluation.prompttokens import counted, reader_of
from pipeline.evaluation.systems import SystemAnswerer
from pipeline.model.reader import Reader
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "The currency of Borland?", "Who?"]


@pytest.mark.parametrize("same_start", [False, True])
def test_tokens_of_prompts_are_counted_without_padding_or_answers(
    lm: LanguageModel, same_start: bool
) -> None:
    reader = Reader(lm, "cpu")
    right = sum(len(reader.tokens([question]).ids[0]) for question in QUESTIONS)
    with counted(reader) as found:
        reader.generate(reader.tokens(QUESTIONS), 3, same_start=same_start)
        reader.generate(reader.tokens(QUESTIONS), 3, same_start=same_start)
    assert (found.tokens, found.prompts) == (2 * right, 6)
    reader.generate(reader.tokens(QUESTIONS), 3)
    assert found.prompts == 6, "what comes after the block is not counted"


def test_the_language_model_of_a_method_is_found(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    assert reader_of(SystemAnswerer("ours", system, world.graph)) is system.reader
    majority = build(Majority(), graph=world.graph)
    assert reader_of(majority) is None
    with counted(None) as found:
        majority.answer(QUESTIONS)
    assert found.prompts == 0
