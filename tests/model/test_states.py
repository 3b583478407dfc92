"""Questions told by the model's own states: padding unseen, gradients, and what they learn to find."""

import random
from typing import Any

import torch

from pipeline.model.ours import OurSystem
from pipeline.model.retrieval import fit_heads
from pipeline.model.states import StateHeads, StatePool
from pipeline.model.system import Example
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, retrieval, shaken, some_examples
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_padding_is_not_seen_and_every_parameter_learns() -> None:
    pool = StatePool(6, 5, 4, 3)
    with torch.no_grad():
        pool.attention.weight.copy_(drawn(3, 6))
    states, mask = drawn(2, 7, 6), torch.ones(2, 7).bool()
    mask[0, :3] = False
    found = pool(states, mask)
    torch.testing.assert_close(found[:1], pool(states[:1, 3:], mask[:1, 3:]))
    found.square().sum().backward()
    for name, parameter in pool.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_batch_asks_as_each_question_alone(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(question="states"), world, lm, encoder)
    assert isinstance(system.heads, StateHeads)
    shaken(system)
    together = system.query(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        for batch, alone in zip(together[:2], system.query([question]), strict=False):
            torch.testing.assert_close(batch[row], alone[0], rtol=1e-3, atol=1e-3)


def test_the_encoder_is_not_asked(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(question="states"), world, lm, encoder)
    system.encoder.encode = None
    with system.attached():
        assert system.ground(QUESTIONS, 2).shape == (3, 2)


def test_fitted_states_find_what_is_asked_for(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system: OurSystem = opened(ours(question="states", head_width=32), world, lm, encoder)
    examples = some_examples(system, 12)
    random.seed(0)

    def right() -> float:
        found = system.ground([example.text for example in examples], 1)[:, 0].tolist()
        return sum(same_slot(system, *pair) for pair in zip(found, examples, strict=True)) / len(examples)

    before = right()
    rows = torch.tensor(system.memory.triples[[example.gold[0] for example in examples]])
    rows[:, 2] = -1  # one hop
    settings = retrieval(steps=120, batch_size=12, learning_rate=0.02)
    fit_heads(
        system.heads,
        system.memory,
        lambda drawn: system.query([examples[place].text for place in drawn.tolist()]),
        rows,
        settings,
        lambda items, title: items,
    )
    assert right() > max(0.8, before)


def same_slot(system: Any, found: int, example: Example) -> bool:
    triples = system.memory.triples
    return found >= 0 and bool((triples[found, :2] == triples[example.gold[0], :2]).all())
