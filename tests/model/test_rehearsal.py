"""Relations that heads don't know: who is kept from what, how far to trust, what others learn from it."""

import random
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch

from pipeline.evaluation.searching import _asking, _slots
from pipeline.model.rehearsal import LOST, Rehearsed, choose_trust, rehearse, unfamiliar
from pipeline.model.retrieval import fit_heads
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
    """The heads of a fold come out the same wherever its relations lie; those of others matter."""
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


def spoilt(heads: Any) -> Any:
    """Return heads that take any relation for one that has nothing to do with the question."""
    other = deepcopy(heads)
    other.relation.outer.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(50)
    return other


def test_heads_go_as_far_as_new_relations_want(system: Any) -> None:
    examples = some_examples(system, 20)
    asked = frozenset(relation(system, example) for example in examples)
    system.heads = spoilt(system.heads)
    fold = Rehearsed(deepcopy(system.heads), asked)
    found = choose_trust(system, [fold], examples, [0.0])
    assert found["0"] == found["0 new"] > found["1"] == found["1 new"], "the same heads and questions"
    assert found["chosen"] == 0.0
    assert not system.heads.relation.outer.weight.any()
    assert not fold.heads.relation.outer.weight.any()


def test_known_relations_are_not_given_up_for_new_ones(system: Any) -> None:
    examples = some_examples(system, 20)
    asked = frozenset(relation(system, example) for example in examples)
    fold = Rehearsed(spoilt(system.heads), asked)
    asking, slots = _asking(system, examples), _slots(system, examples)
    settings = retrieval(steps=150, batch_size=20, learning_rate=0.03)
    fit_heads(system.heads, system.memory, partial(asking, system.heads), slots, settings, quiet)
    before = system.heads.map.clone()
    found = choose_trust(system, [fold], examples, [0.0])
    assert found["0 new"] > found["1 new"]
    assert found["0"] < found["1"] - LOST
    assert found["chosen"] == 1.0
    assert torch.equal(system.heads.map, before)
