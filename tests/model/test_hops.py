"""Questions over two facts: gold ways, heads that find them, replies that name them, and their training."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.memory.facts import Candidates, Fact
from pipeline.model.hops import gold_paths, with_gold_paths
from pipeline.model.retrieval import fit_heads
from pipeline.model.stopping import LOST, choose_stop
from pipeline.model.system import Example
from pipeline.weights import Encoder, LanguageModel
from tests.model.test_retrieval import quiet
from tests.model.tiny_systems import opened, ours, retrieval, shaken, some_examples, steps
from tests.tiny import SmallWorld

BATCH = [
    Example("one", ("x",), (4,)),
    Example("two", ("y",), (5, 6), "multihop", (2,)),
    Example("no", (), ()),
]


def linked(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, **changes: Any
) -> tuple[Any, list[Example]]:
    """Return a system for two hops, and a question about the currency of each capital of its memory."""
    method = ours(**({"hops": 2, "head_width": 32, "mass": 1.0} | changes))
    system = opened(method, world, lm, encoder, N=60, beam=60)
    memory, examples = system.memory, []
    for row in range(len(memory)):
        fact = memory.fact(row)
        if fact.relation == "P36":
            coin = Fact(fact.tail, "P38", f"coin {row}", "", "", f"{fact.tail_label} coin")
            [gold] = memory.upsert([coin]).facts
            text = f"What is the currency of the capital of {fact.head_label}?"
            examples.append(Example(text, (coin.tail_label,), (gold,), "multihop", (row,)))
    assert len(examples) > 3
    return system, examples


def test_a_fact_answers_only_by_the_way_that_was_asked_for() -> None:
    facts = torch.tensor([[4, 4, 5], [5, 6, 5], [4, 5, -1]])
    via = torch.tensor([[-1, 3, -1], [-1, 2, 3], [-1, -1, -1]])
    assert gold_paths(facts, via, BATCH).tolist() == [[True, False, False], [False, True, False], [False] * 3]


def test_a_way_that_was_not_found_comes_last() -> None:
    facts, via = (
        torch.tensor([[4, 5, 6], [5, 7, 8], [4, 5, 6]]),
        torch.tensor([[-1, 1, 1], [-1, 2, 2], [1, 1, 1]]),
    )
    zeros = torch.zeros(3, 3)
    found = Candidates(facts, zeros, zeros, zeros, via)
    new_facts, new_via = with_gold_paths(found, BATCH)
    assert new_facts.tolist() == [[4, 5, 6], [5, 7, 5], [4, 5, 6]]
    assert new_via.tolist() == [[-1, 1, 1], [-1, 2, 2], [1, 1, 1]]
    assert facts[1, 2] == 8
    assert gold_paths(new_facts, new_via, BATCH).any(dim=-1).tolist() == [True, True, False]


def test_fitted_heads_find_facts_over_one_hop_and_over_two(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system, both = linked(world, lm, encoder)
    known = [*both, *some_examples(system, 8)]
    triples = torch.as_tensor(system.memory.triples)
    asked = triples[[e.via[0] if e.via else e.gold[0] for e in known]][:, :2]
    later = torch.tensor([int(triples[e.gold[0], 1]) if e.via else -1 for e in known])
    vectors = system.encoder.encode([e.text for e in known])

    def right() -> float:
        found = system.memory.search(system.query([e.text for e in known]), 1)
        return gold_paths(found.facts, found.via, known).float().mean().item()

    before = right()
    settings = retrieval(steps=400, batch_size=20, learning_rate=0.03)
    slots = torch.cat([asked, later[:, None]], dim=1)
    fit_heads(system.heads, system.memory, lambda drawn: system.heads(vectors[drawn]), slots, settings, quiet)
    assert right() > max(0.8, before)


def test_training_follows_both_hops(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    """The loss falls, and its gradient reaches the head of the second hop."""
    system, both = linked(world, lm, encoder)
    batch = [*both[:2], *some_examples(system, 2), Example("Why?", (), ())]
    losses = steps(system, batch, 6, 0.01, "loss")
    assert losses[-1] < losses[0]
    for name, parameter in system.heads.second.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_reply_names_what_led_to_a_fact(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system, both = linked(world, lm, encoder)
    shaken(system)
    system.heads.second.stop.bias.data.fill_(-2.0)
    system.null.threshold.fill_(1.0)
    system.memory.settings = replace(system.memory.settings, k=12)
    texts = [example.text for example in both]
    with system.attached():
        reply = system.reply(texts)
        alone = system.reply(texts[:1])
    assert reply.via[0] == alone.via[0]
    assert any(via >= 0 for row in reply.via for via in row)
    for facts, ways in zip(reply.facts, reply.via, strict=True):
        assert len(facts) == len(ways) == len(set(facts))
        for fact, via in zip(facts, ways, strict=True):
            assert via < 0 or system.memory.fact(via).tail == system.memory.fact(fact).head


@pytest.mark.parametrize("question", ["encoder", "states"])
def test_one_hop_has_no_second_head(
    question: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    one, two = (opened(ours(hops=hops, question=question), world, lm, encoder) for hops in (1, 2))
    assert (one.hops, two.hops) == (1, 2)
    assert {name for name in two.state_dict().keys() - one.state_dict().keys()} == {
        f"heads.second.{name}" for name in two.heads.second.state_dict()
    }
    with one.attached():
        assert set(one.reply(["Why?"]).via[0]) <= {-1}


def first(system: Any, examples: list[Example]) -> float:
    """Return the share of questions that the first candidate answers."""
    found = system.found([e.text for e in examples])
    best = found.scores.argmax(dim=-1, keepdim=True)
    return gold_paths(found.facts.gather(1, best), found.via.gather(1, best), examples).float().mean().item()


def trained(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> tuple[Any, list[Example]]:
    """Return a system that answers most questions over one hop and over two, and such questions."""
    system, both = linked(world, lm, encoder)
    known = [*both, *some_examples(system, 8)]
    triples = torch.as_tensor(system.memory.triples)
    asked = triples[[e.via[0] if e.via else e.gold[0] for e in known]][:, :2]
    later = torch.tensor([int(triples[e.gold[0], 1]) if e.via else -1 for e in known])
    vectors = system.encoder.encode([e.text for e in known])
    slots = torch.cat([asked, later[:, None]], dim=1)
    settings = retrieval(steps=400, batch_size=20, learning_rate=0.03)
    fit_heads(system.heads, system.memory, lambda drawn: system.heads(vectors[drawn]), slots, settings, quiet)
    return system, known


@pytest.mark.parametrize("off", [-400.0, 400.0])
def test_the_choice_to_hop_is_set_right_by_validation_questions(
    off: float, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """A bias that hops ever, or never, is undone."""
    system, known = trained(world, lm, encoder)
    before = first(system, known)
    second = system.heads.second
    second.stop.bias.data += off / second.log_scale.exp()
    spoilt = first(system, known)
    assert spoilt < before - 0.1
    found = choose_stop(system, known, [-400.0, 400.0, 800.0])
    assert found["chosen"] == -off
    assert first(system, known) == pytest.approx(before)
    assert found[f"{-off:g}"] == max(found[name] for name in ("-400", "0", "400", "800"))
    kinds = [found["template"], found["multihop"]]
    assert sum(kinds) / 2 == pytest.approx(found[f"{-off:g}"])
    assert found["template"] >= found["template at one hop"] - LOST


def test_two_hops_may_not_cost_what_one_hop_answers(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """Each bias is best for one kind: that which spares one-hop questions is taken, not that of the mean."""
    system, known = trained(world, lm, encoder)
    second = system.heads.second
    second.stop.bias.data -= 400 / second.log_scale.exp()
    one = [e for e in known if not e.via][:1]
    found = choose_stop(system, [*one, *(e for e in known if e.via)], [2e4])
    assert found["0"] == found["20000"] == 0.5, "on a tie, 0 would be chosen"
    assert found["chosen"] == 2e4
    assert found["template"] == found["template at one hop"] == 1
    assert found["multihop"] == 0


def test_no_bias_is_chosen_where_none_is_better(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system, known = trained(world, lm, encoder)
    before = system.heads.second.stop.bias.clone()
    found = choose_stop(system, known, [-0.001, 0.001])
    assert found["chosen"] == 0
    assert torch.equal(system.heads.second.stop.bias, before)
