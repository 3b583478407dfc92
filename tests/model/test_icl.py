"""In-context learning: all facts that hold stand in the prompt, and too many are an error."""

import pytest

from pipeline.config import UserError
from pipeline.evaluation.systems import has_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import closed_book, icl, opened, rag, some_examples
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?"]


def test_every_fact_that_holds_is_in_the_prompt(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(icl(fact_tokens=48), world, lm, encoder)
    said = []
    for rows in ([0, 1, 2], [0, 2, 5]):
        with system.memory.only(rows), system.attached():
            reply = system.reply(QUESTIONS)
        shown = "".join(system.memory.text(row) + "\n" for row in rows)
        prompts = system.reader.tokens(QUESTIONS, None, [shown, shown])
        assert reply.texts == system.reader.generate(prompts, 4)
        assert reply.facts == reply.candidates == [[], []], "which of the facts it read can't be told"
        said.append(reply.texts)
    assert said[0] != said[1]


def test_more_facts_than_positions_are_an_error(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(icl(fact_tokens=48), world, lm, encoder)
    with pytest.raises(UserError, match=r"facts with a question and its answer take .* 512 positions"):
        system.reply(QUESTIONS)


def test_it_has_the_parameters_of_rag_and_is_not_trained(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system, other = (opened(method, world, lm, encoder) for method in (icl(), rag()))
    shapes = [{name: p.shape for name, p in made.state_dict().items()} for made in (system, other)]
    assert shapes[0] == shapes[1]
    assert [has_adapter(m) for m in (icl(), icl(tuned=False), rag(), closed_book())] == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(NotImplementedError, match="icl is not trained"):
        system.losses(some_examples(system))
    with pytest.raises(ValueError, match=r"fact_tokens and answer_tokens must be at least 1"):
        icl(fact_tokens=0)
