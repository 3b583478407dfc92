"""KBLaM and AtlasKV on the small world: gradients, schedule, updates, refusals of bad values."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.memory.facts import Fact
from pipeline.model.beside import Bank, FactsBeside, reading
from pipeline.model.settings import Vector
from pipeline.model.system import Example
from pipeline.model.vector import REFUSAL_START, VectorSystem
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, shaken, some_examples, steps, vector
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]


@pytest.fixture
def make(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Callable[..., Any]:
    def made(**changes: Any) -> Any:
        return opened(vector(**changes), world, lm, encoder)

    return made


@pytest.mark.parametrize(
    "changes", [{}, {"alpha": 1.0}, {"alpha": 1.0, "pooling": "mean", "logit_scale": 7.0}]
)
def test_gradients_reach_every_parameter_and_nothing_else(
    changes: dict[str, Any], make: Callable[..., Any]
) -> None:
    system = make(**changes)
    with system.attached():
        system.losses(some_examples(system))["loss"].backward()
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in system.reader.lm.parameters())


def test_l_aux_brings_the_right_fact_to_the_front(make: Callable[..., Any]) -> None:
    system = make(alpha=1.0, negatives=8, negatives_every=1, negatives_most=40)
    losses = steps(system, some_examples(system), 120, 0.01, "aux_loss")
    assert losses[-1] < 0.6 * losses[0]


def test_the_facts_of_a_step_grow_by_the_schedule_and_hold_the_right_ones(make: Callable[..., Any]) -> None:
    system = make(negatives=2, negatives_every=3, negatives_most=5)
    examples = some_examples(system)
    right = {fact for example in examples for fact in example.gold}
    for step, most in ((0, 2), (2, 2), (3, 4), (6, 5), (99, 5)):
        system.steps.fill_(step)
        random.seed(0)
        beside = set(system._beside(examples))
        assert right <= beside
        assert len(beside - right) <= most
    assert len(beside - right) > 1


@pytest.mark.parametrize("pooling", ["softmax", "mean"])
def test_grounding_ranks_as_the_reply_reads(pooling: str, make: Callable[..., Any]) -> None:
    for roots in (0, 4):
        system = make(pooling=pooling, roots=roots, leaves=6)
        shaken(system)
        with system.attached():
            reply = system.reply(QUESTIONS)
            ranked = system.ground(QUESTIONS, 4).tolist()
            whole = system.ground(QUESTIONS, len(system.bank.ids)).tolist()
        assert [row[: len(facts)] for row, facts in zip(ranked, reply.facts, strict=True)] == [
            facts[:4] for facts in reply.facts
        ]
        if not roots:
            assert len({tuple(row) for row in whole}) > 1


def test_facts_that_are_only_scored_teach_the_scores_and_are_not_read(make: Callable[..., Any]) -> None:
    few, many = (make(alpha=1.0, scored=count) for count in (0, 99))
    examples = some_examples(few)
    losses = []
    for system in (few, many):
        random.seed(0)
        with system.attached():
            losses.append(system.losses(examples))
    assert losses[0]["lm_loss"] == losses[1]["lm_loss"]
    assert losses[0]["aux_loss"] < losses[1]["aux_loss"]


def test_the_learned_scale_sharpens_the_loss_and_the_weights(make: Callable[..., Any]) -> None:
    examples = some_examples(make())
    losses, first = [], []
    for scale in (0.0, 1.0, 5.0):
        system = make(alpha=1.0, pooling="mean", logit_scale=scale)
        random.seed(0)
        with system.attached():
            losses.append(system.losses(examples)["aux_loss"].item())
            first.append([row[0] for row in system.reply(QUESTIONS).weights])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[2] != pytest.approx(losses[1], rel=1e-3)
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert all(sharp > blunt for sharp, blunt in zip(first[2], first[1], strict=True))


def test_an_answer_that_begins_as_the_refusal_is_one(make: Callable[..., Any]) -> None:
    system = make(answer_tokens=8)
    shaken(system)
    with system.attached():
        said = system.reply(QUESTIONS).texts
    system = make(answer_tokens=8, refusal=said[0])
    shaken(system)
    with system.attached():
        reply = system.reply(QUESTIONS)
    same = [text.startswith(said[0][:REFUSAL_START]) for text in said]
    assert same[0]
    assert not all(same)
    assert reply.refused == same
    assert reply.texts == ["" if no else text for no, text in zip(same, said, strict=True)]


def test_refusing_is_learned_from_questions_without_an_answer(make: Callable[..., Any]) -> None:
    system = make(negatives=40, negatives_every=1, negatives_most=40)
    without = [Example(text, (), (), "unanswerable") for text in QUESTIONS]
    losses = steps(system, without, 30, 0.03, "lm_loss")
    assert losses[-1] < 0.8 * losses[0]


def test_what_is_kept_of_all_facts_follows_them_and_the_maps(make: Callable[..., Any]) -> None:
    system = make(roots=4, leaves=6)
    with torch.no_grad():
        first, pruning = system.scale, system.pruning
        assert system.scale is first
        assert system.pruning.tree.leaves is pruning.tree.leaves
        system.method = replace(system.method, roots=1)
        assert system.pruning.tree.leaves is pruning.tree.leaves, "what is kept changes no tree"
        assert (system.pruning.tree.roots_kept, pruning.tree.roots_kept) == (1, 4)
        system.memory.upsert([Fact("Q1", "P36", "Q2")])
        assert len(system.scale) == len(first) + 1
        assert len(system.pruning.tree.leaves) == len(first) + 1
        before = system.scale
        system.maps.keys.mul_(2.0)
        torch.testing.assert_close(system.scale, before / 2, rtol=1e-3, atol=1e-4)


def test_pruning_that_keeps_all_answers_as_reading_all(make: Callable[..., Any]) -> None:
    flat = make(roots=0)
    pruned = make(roots=999, inner=999, leaves=9999)
    pruned.load_state_dict(flat.state_dict())
    with flat.attached():
        expected = flat.reply(QUESTIONS)
    with pruned.attached():
        found = pruned.reply(QUESTIONS)
    assert (found.texts, found.facts) == (expected.texts, expected.facts)


def test_the_next_question_sees_what_the_memory_was_told(make: Callable[..., Any]) -> None:
    for roots in (0, 4):
        system = make(roots=roots)
        with system.attached():
            system.reply(QUESTIONS)
            old = system.memory.fact(0)
            system.memory.upsert([Fact(old.head, old.relation, "NEW", tail_label="Newtown")], replace=True)
            assert 0 not in system.bank.ids.tolist()
            assert any(system.memory.fact(row).tail == "NEW" for row in system.bank.ids.tolist())
            assert (system.pruning is None) == (not roots)


def test_an_empty_memory_is_refused_all(make: Callable[..., Any]) -> None:
    system = make()
    system.memory.delete([system.memory.fact(row).key for row in system.bank.ids.tolist()])
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.refused == [True] * 3
    assert reply.facts == [[], [], []]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"every": 0}, "method.every must be at least 1, not 0"),
        ({"size_weight": -1.0}, "method.size_weight must be at least 0, not -1.0"),
        ({"leaves": 0}, "method.leaves must be at least 1, not 0"),
        ({"pooling": "max"}, "method.pooling must be one of softmax, mean, not 'max'"),
        ({"selection": "all"}, "method.selection must be one of layer, shared, not 'all'"),
        ({"rows": "own"}, "method.rows must be one of graph, synthetic, not 'own'"),
        ({"refusal": " "}, "method.refusal must not be empty"),
    ],
)
def test_values_that_make_no_sense_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(vector(), **changes)


def test_a_grounding_layer_that_sees_no_facts_is_named(make: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"method\.grounding is 9, but only \d+ of the model's \d+ layers"):
        make(grounding=9)


def test_the_values_are_a_section(make: Callable[..., Any]) -> None:
    assert isinstance(vector(), Vector)
    assert isinstance(make(), VectorSystem)


SHARED: dict[str, Any] = {"selection": "shared", "grounding": 1, "leaves": 5, "pooling": "mean", "alpha": 1.0}


def asked(system: Any, bank: Bank | None = None) -> FactsBeside:
    """Facts after the grounding layer has asked QUESTIONS of them; those of the memory, or `bank`."""
    prompts = system.reader.tokens(QUESTIONS)
    facts: FactsBeside = system._facts(bank or system.bank, prompts.mask.bool(), 0.0, system.pruning)
    with system.attached(), reading(facts), torch.no_grad():
        system.reader.lm(input_ids=prompts.ids, attention_mask=prompts.mask)
    return facts


@pytest.mark.parametrize("roots", [0, 99])
@pytest.mark.parametrize("pooling", ["mean", "softmax"])
def test_selecting_all_facts_is_reading_them_all_in_those_layers(
    roots: int, pooling: str, make: Callable[..., Any]
) -> None:
    changes = SHARED | {"pooling": pooling, "leaves": 999, "inner": 99}
    system = make(**changes, roots=roots)
    shaken(system)
    with system.attached():
        found = system.reply(QUESTIONS)
        facts, prompts = system._ask(QUESTIONS)
        facts.shared, facts.pruning = 0, None
        with reading(facts):
            assert system.reader.generate(prompts, 4) == found.texts
    _, rows = facts.ranking(3)
    assert [ids[:3] for ids in found.facts] == system.bank.ids[rows].tolist()


def test_a_fact_that_is_not_selected_gets_no_weight(make: Callable[..., Any]) -> None:
    system = make(**SHARED)
    shaken(system)
    facts = asked(system)
    _, chosen = facts.ranking(5)
    read = [facts.read(place) for place in range(len(system.queries))]
    unread = torch.ones(len(system.bank.ids), dtype=torch.bool)
    unread[chosen.flatten()] = False
    assert unread.any()
    values = facts.bank.values.clone()
    values[unread] = 1e6
    facts.bank = replace(facts.bank, values=values)
    for place, (found, total) in enumerate(read):
        again, also = facts.read(place)
        assert torch.equal(found, again)
        assert torch.equal(total, also)


def test_more_facts_that_do_not_fit_leave_the_scores_of_the_others(make: Callable[..., Any]) -> None:
    """With `layer` the layers below the grounding layer read them, and it asks something else."""
    for selection in ("shared", "layer"):
        system = make(**(SHARED | {"selection": selection}))
        shaken(system)
        bank, count = system.bank, len(system.bank.ids)
        generator = torch.Generator().manual_seed(0)
        keys, values = (
            torch.cat([part, torch.randn(10 * count, part.shape[1], generator=generator)])
            for part in (bank.keys, bank.values)
        )
        more = Bank(torch.arange(11 * count), keys, values)
        few, many = asked(system).scores(), asked(system, more).scores()[:, :count]
        assert torch.allclose(few, many, rtol=1e-4, atol=1e-4) == (selection == "shared")


def test_below_a_shared_selection_nothing_is_learned(make: Callable[..., Any]) -> None:
    layer, shared = make(**(SHARED | {"selection": "layer"})), make(**SHARED)
    assert len(shared.queries) == len(layer.queries) - 1
    assert shared.maps.keys.shape[0] == len(shared.queries)
    with shared.attached():
        shared.losses(some_examples(shared))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in shared.parameters())
