"""Relations that heads don't know: who is kept from what, how far to trust, what others learn from it."""

import random
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch

from pipeline.evaluation.searching import _asking, _slots
from pipeline.model.rehearsal import LOST, Rehearsed, choose_trust, rehearse, unfamiliar
from pipeline.model.system import Example
from pipeline.model.views import asked_by, batches
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, retrieval, some_examples
from tests.tiny import SmallWorld


def quiet(items: Iterable[int], title: str) -> Iterable[int]:
    return items


@pytest.fixture
def system(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Any:
    return opened(ours(hops=2, head_width=32), world, lm, encoder, N=60)


def rehearsed(system: Any, examples: list[Example], **changes: Any) -> list[Rehearsed]:
    torch.manual_seed(0)
    settings = retrieval(**({"steps": 40, "batch_size": 20, "learning_rate": 0.03} | changes))
    asking, slots = _asking(system, examples), _slots(system, examples)
    parts = deepcopy(system.heads), system.heads, system.memory
    return rehearse(*parts, asking, slots, settings, random.Random(0), quiet)


def relation(system: Any, example: Example) -> int:
    return int(system.memory.triples[example.gold[0], 1])


def test_every_relation_is_kept_from_the_heads_of_one_fold(system: Any) -> None:
    """The heads of a fold come out the same whatever its questions are, and another way by those of others."""
    examples = some_examples(system, len(system.memory))
    folds = rehearsed(system, examples)
    assert len(folds) == 2
    first, second = (fold.relations for fold in folds)
    assert not first & second
    assert first | second == {relation(system, example) for example in examples}
    before = folds[0].heads.state_dict()
    for moved, same in ((first, True), (second, False)):
        changed = system.memory.relations.vectors.clone()
        system.memory.relations.vectors[sorted(moved)] *= -1
        after = rehearsed(system, examples)[0].heads.state_dict()
        system.memory.relations.vectors.copy_(changed)
        assert all(torch.equal(value, after[name]) for name, value in before.items()) == same
    own = system.heads.state_dict()
    entity = [name for name in own if name.startswith("entity")]
    assert all(torch.equal(before[name], own[name]) for name in entity)
    assert not torch.equal(before["relation.outer.weight"], own["relation.outer.weight"])


def test_questions_are_seen_by_the_heads_that_do_not_know_their_relation(system: Any) -> None:
    examples = some_examples(system, 12)
    folds = rehearsed(system, examples)
    views = unfamiliar(system, folds, [*examples, Example("Why?", (), ())])
    assert sorted(e.text for _, view in views for e in view) == sorted(e.text for e in examples)
    for (heads, view), fold in zip(views, folds, strict=True):
        assert heads is fold.heads
        assert all(relation(system, example) in fold.relations for example in view)


@pytest.mark.parametrize("folds", [0, 100])
def test_folds_are_none_or_at_most_the_relations(folds: int, system: Any) -> None:
    examples = some_examples(system, len(system.memory))
    asked = {relation(system, example) for example in examples}
    assert len(rehearsed(system, examples, relation_folds=folds, steps=1)) == (len(asked) if folds else 0)
    assert choose_trust(system, [], examples, [0.5]) == {"chosen": 1.0}


def test_other_heads_ask_inside_the_block_alone(system: Any) -> None:
    examples = some_examples(system, 5)
    own, other = system.heads, deepcopy(system.heads)
    seen = [(system.heads, len(batch)) for batch in batches(system, [(other, examples), (own, examples)])]
    assert seen == [(other, 5), (own, 5)]
    with pytest.raises(KeyError), asked_by(system, other):
        raise KeyError
    assert system.heads is own


def test_trust_goes_from_the_encoder_to_what_was_fitted(system: Any) -> None:
    start = deepcopy(system.heads)
    torch.nn.init.normal_(system.heads.relation.outer.weight)
    torch.nn.init.normal_(system.heads.relation.outer.bias)
    torch.nn.init.normal_(system.heads.map)
    x = torch.nn.functional.normalize(torch.randn(4, system.encoder.dimension), dim=-1)
    whole, none, half = (deepcopy(system.heads) for _ in range(3))
    whole.trust(1.0)
    torch.testing.assert_close(whole(x).relation, system.heads(x).relation)
    none.trust(0.0)
    torch.testing.assert_close(none(x).relation, start(x).relation)
    half.trust(0.5)
    torch.testing.assert_close(half.map, (system.heads.map + torch.eye(len(half.map))) / 2)
    torch.testing.assert_close(half.relation.outer.weight, system.heads.relation.outer.weight / 2)


def test_the_trust_that_new_relations_want_is_chosen_unless_known_ones_lose(system: Any) -> None:
    """Heads that are right by themselves and wrong by what was "fitted" are moved back; not the other way."""
    examples = some_examples(system, 20)
    asked = {relation(system, example) for example in examples}
    learned = rehearsed(system, examples, relation_folds=2, steps=150)[0].heads  # fitted to one half
    spoilt = deepcopy(learned)
    spoilt.relation.outer.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(50)
    system.heads = spoilt
    found = choose_trust(system, [Rehearsed(deepcopy(spoilt), frozenset(asked))], examples, [0.0, 0.5])
    assert found["0"] == found["0 new"], "the same heads, the same questions"
    assert found["0"] > found["1"] + LOST
    assert found["chosen"] == max((0.0, 0.5, 1.0), key=lambda t: (found[f"{t:g} new"], t)) < 1
    if found["chosen"] == 0:
        assert not system.heads.relation.outer.weight.any()
    system.heads = spoilt = deepcopy(learned)
    other = deepcopy(learned)
    other.relation.outer.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(50)
    known = [example for example in examples if relation(system, example) in asked]
    found = choose_trust(system, [Rehearsed(other, frozenset(asked))], known, [0.0])
    assert found["chosen"] == (0.0 if found["0"] >= found["1"] - LOST else 1.0)
