"""What training is told of gold facts: shares that nest, guesses by the answer, wrong facts, and nothing."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import ConfigError, section
from pipeline.model.labels import Labels, candidates, labelled
from pipeline.model.settings import AtlasKvAux
from pipeline.model.system import Example, System
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import dysk, labels, opened, ours, rag, some_examples, vector
from tests.tiny import SmallWorld

Make = Callable[..., Any]
SUPERVISED = {"ours": ours, "dysk": dysk, "atlaskv_aux": lambda **c: vector(AtlasKvAux, refuses=False, **c)}


@pytest.fixture
def make(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Make:
    """Return a function that opens a method's system on a world all of whose facts are candidates."""

    def made(method: Any) -> System:
        layout = "slot" if isinstance(method, AtlasKvAux) else "factored"
        system: System = opened(method, world, lm, encoder, layout=layout, N=100, k=3)
        return system

    return made


def told(system: System, examples: list[Example], seed: int = 0, **shares: Any) -> list[Example]:
    return labelled(examples, labels(**shares), system.memory, system.encoder, seed)[0]


def questions(system: System, count: int) -> list[Example]:
    """Return so many questions, of other words each, about the facts of the memory in turn."""
    known = some_examples(system, len(system.memory))
    return [replace(known[n % len(known)], text=f"{n}: {known[n % len(known)].text}") for n in range(count)]


def tail(system: System, fact: int) -> str:
    return system.memory.fact(fact).tail_label


def test_all_gold_without_noise_is_what_there_was(make: Make) -> None:
    system = make(ours())
    examples = [*some_examples(system, 9), Example("Why?", (), (), "unanswerable")]
    for otherwise in ("none", "distant"):
        found, counts = labelled(examples, labels(otherwise=otherwise), system.memory, system.encoder, seed=3)
        assert all(a is b for a, b in zip(found, examples, strict=True))
        assert +counts == {"gold": 9}


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_smaller_share_knows_a_larger_one_knows_too(seed: int, make: Make) -> None:
    system = make(ours())
    examples = questions(system, 400)
    shares = [0.0, 0.1, 0.25, 0.5, 1.0]
    known = [
        {n for n, e in enumerate(told(system, examples, seed, gold=share)) if e.told} for share in shares
    ]
    for share, smaller, larger in zip(shares[1:], known[:-1], known[1:], strict=True):
        assert smaller < larger
        assert abs(len(larger) - 400 * share) <= 4 * (400 * share * (1 - share)) ** 0.5
    assert not known[0]


def test_another_seed_or_the_order_of_questions_changes_who_is_known_as_it_should(make: Make) -> None:
    system = make(ours())
    examples = questions(system, 100)
    first = told(system, examples, 0, gold=0.5)
    assert first != told(system, examples, 1, gold=0.5)
    assert first == told(system, examples[::-1], 0, gold=0.5)[::-1]


def test_nothing_is_told_of_the_others_but_their_answers(make: Make) -> None:
    system = make(ours())
    examples = [*some_examples(system, 4), Example("Why?", (), (), "unanswerable")]
    for before, after in zip(examples, told(system, examples, gold=0.0), strict=True):
        assert (after.gold, after.via, after.told, after.right) == ((), (), False, before.gold)
        assert (after.text, after.answers, after.kind) == (before.text, before.answers, before.kind)


def test_a_single_candidate_with_the_answer_is_the_gold_fact_and_several_share(make: Make) -> None:
    system = make(ours())
    examples = some_examples(system, len(system.memory))
    tails = [tail(system, fact) for fact in range(len(system.memory))]
    found, counts = labelled(
        examples, labels(gold=0.0, otherwise="distant"), system.memory, system.encoder, seed=0
    )
    alone = 0
    for before, after in zip(examples, found, strict=True):
        holders = {fact for fact, name in enumerate(tails) if name == before.answers[0]}
        assert after.told
        assert set(after.gold) == holders
        assert len(after.gold) == len(holders)
        alone += after.gold == before.gold
    assert 0 < alone < len(examples), "the world has tails of one fact and tails of several"
    shared = len(examples) - alone
    assert +counts == {"distant": len(examples), "distant_right": len(examples), "distant_wrong": shared}


def test_matches_stand_in_the_order_in_which_the_encoder_found_them(make: Make) -> None:
    system = make(ours())
    examples = some_examples(system, len(system.memory))
    found = candidates([e.text for e in examples], system.memory, system.encoder)
    after = told(system, examples, gold=0.0, otherwise="distant")
    for example, ranked in zip(after, found, strict=True):
        assert list(example.gold) == sorted(example.gold, key=ranked.index)


def test_without_a_match_and_over_two_facts_nothing_is_told(make: Make) -> None:
    system = make(ours())
    first, second = some_examples(system, 2)
    odd = [replace(first, answers=("nobody",)), replace(second, via=(5,), kind="multihop")]
    for example in told(system, odd, gold=0.0, otherwise="distant"):
        assert (example.gold, example.via, example.told) == ((), (), False)
    asked = Example("Why?", (), (), "unanswerable")
    assert told(system, [asked], gold=0.0, otherwise="distant") == [asked]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
def test_noise_puts_a_near_wrong_fact_in_the_place_of_so_many_gold_ones(share: float, make: Make) -> None:
    system = make(ours())
    examples = questions(system, 600)
    found, counts = labelled(examples, labels(noise=share), system.memory, system.encoder, seed=0)
    wrong = [(a, b) for a, b in zip(examples, found, strict=True) if a != b]
    assert counts["noise"] == len(wrong)
    assert abs(len(wrong) - 600 * share) <= 4 * (600 * share * (1 - share)) ** 0.5
    for before, after in wrong:
        [fact] = after.gold
        assert after.right == before.gold
        assert after.told
        assert fact not in before.gold
        assert tail(system, fact) not in before.answers
        one, other = (system.memory.fact(f) for f in (fact, before.gold[0]))
        assert one.head == other.head or one.relation == other.relation
        assert system.target(after, after.gold) == f" {before.answers[0]}", "no wrong answer is learned"


def test_noise_spares_what_is_not_known_and_nests(make: Make) -> None:
    system = make(ours())
    examples = questions(system, 200)
    few, many = (told(system, examples, gold=0.5, noise=noise) for noise in (0.2, 0.6))
    known = told(system, examples, gold=0.5)
    for clean, some, more in zip(known, few, many, strict=True):
        assert some in (clean, more)
        if not clean.told:
            assert some == more == clean
    assert known != few != many


def test_a_wrong_fact_of_two_is_of_the_same_head_and_reached_by_the_same_way(make: Make) -> None:
    system = make(ours())
    examples = [replace(e, via=(0,), kind="multihop") for e in some_examples(system, len(system.memory))]
    for before, after in zip(examples, told(system, examples, noise=1.0), strict=True):
        assert after.via == before.via
        heads = {system.memory.fact(fact).head for fact in (*before.gold, *after.gold)}
        assert len(heads) == 1


def gradients(system: System, batch: list[Example]) -> dict[str, torch.Tensor]:
    """Return the gradients of one step, and its parts under names that no parameter has."""
    random.seed(0)
    system.zero_grad()
    with system.attached():
        parts = system.losses(batch)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}
    return found | {"/" + name: value for name, value in parts.items()}


@pytest.mark.parametrize("name", SUPERVISED)
def test_without_gold_the_auxiliary_loss_has_no_gradient(name: str, make: Make) -> None:
    """Whatever its weight α, a step is what it is with α = 0."""
    found = []
    for alpha in (0.0, 7.0):
        system = make(SUPERVISED[name](alpha=alpha))
        examples = some_examples(system, 3)
        if name == "ours":
            examples.append(Example("Why?", (), (), "unanswerable"))
        found.append(gradients(system, told(system, examples, gold=0.0)))
        assert found[-1]["/aux_loss"] == 0
        assert found[-1]["/lm_loss"] > 0
        assert found[-1]["/retrieval_accuracy"] == 0
    first, second = found
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    with_gold = gradients(system, examples)
    assert with_gold["/aux_loss"] > 0
    assert any(not torch.equal(value, with_gold[key]) for key, value in first.items() if key in with_gold)


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_question_of_which_nothing_is_told_adds_nothing_to_the_auxiliary_loss(
    name: str, make: Make
) -> None:
    system = make(SUPERVISED[name]())
    known, unknown = some_examples(system, 2)
    [untold] = told(system, [unknown], gold=0.0)
    alone, both = gradients(system, [known]), gradients(system, [known, untold])
    if name == "atlaskv_aux":  # there the facts of a batch stand beside each other
        assert torch.isfinite(both["/aux_loss"])
        assert both["/aux_loss"] > 0
    else:
        assert both["/aux_loss"].item() == pytest.approx(alone["/aux_loss"].item(), rel=1e-4)
    assert not torch.equal(alone["/lm_loss"], both["/lm_loss"])


def test_questions_without_an_answer_alone_can_be_stepped_on(make: Make) -> None:
    """A batch of which nothing is told and nothing is said still has a loss to go back from."""
    system = make(ours())
    found = gradients(system, told(system, [Example("Why?", (), (), "unanswerable")], gold=0.0))
    assert found["/loss"] == 0
    assert all((value == 0).all() for name, value in found.items() if not name.startswith("/"))


def test_vectors_are_read_alike_whatever_is_told(make: Make) -> None:
    """The language loss of AtlasKV needs the right facts in its sample; labels move L_Aux alone."""
    system = make(SUPERVISED["atlaskv_aux"](alpha=1.0))
    examples = some_examples(system, 3)
    ways: list[dict[str, Any]] = [{}, {"gold": 0.0}, {"gold": 0.0, "otherwise": "distant"}, {"noise": 1.0}]
    found = []
    for shares in ways:
        system.steps.zero_()
        found.append(gradients(system, told(system, examples, **shares)))
    assert len({part["/lm_loss"].item() for part in found}) == 1
    assert found[0]["/aux_loss"] != found[3]["/aux_loss"]


def test_rag_reads_what_it_found_where_no_gold_is_known(make: Make) -> None:
    system = make(rag())
    examples = some_examples(system, 3)
    untold = told(system, examples, gold=0.0)
    parts = gradients(system, untold)
    assert parts["/lm_loss"] > 0
    assert parts["/retrieval_accuracy"] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gold": 1.5}, r"train\.labels\.gold must be in \[0, 1\], not 1\.5"),
        ({"noise": -0.1}, r"train\.labels\.noise must be in \[0, 1\], not -0\.1"),
        ({"otherwise": "guess"}, r"train\.labels\.otherwise must be one of none, distant, not 'guess'"),
        ({"glod": 1.0}, r"unknown key train\.labels\.glod"),
    ],
)
def test_bad_values_are_errors_that_name_the_key(changes: dict[str, Any], text: str) -> None:
    values = {"gold": 1.0, "otherwise": "none", "noise": 0.0}
    with pytest.raises(ConfigError, match=f"conf/train: {text}"):
        section(Labels, values | changes, "train.labels")
