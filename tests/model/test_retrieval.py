"""Training of the heads and of the correction: recall rises, ties prefer no correction, seeds repeat."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.judging import choose_threshold, fit_null
from pipeline.model.retrieval import Ask, _contrast, choose_weight, fit_correction, fit_heads, keep_better
from pipeline.model.system import Example, gold_mask
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, retrieval, some_examples
from tests.tiny import SmallWorld


def quiet(items: Iterable[int], title: str) -> Iterable[int]:
    return items


def recall(system: Any, examples: list[Example]) -> float:
    found = system.memory.search(system.query([example.text for example in examples]), 1).facts
    slots = [system.memory.slot(*system.memory.triples[e.gold[0]][:2].tolist()) for e in examples]
    return sum(f in slot for [f], slot in zip(found.tolist(), slots, strict=True)) / len(examples)


def rows(system: Any, examples: list[Example]) -> Tensor:
    triples = torch.as_tensor(system.memory.triples[[e.gold[0] for e in examples]])
    if system.memory.settings.layout == "slot":
        triples[:, 0] = system.memory.adjacency.slot[[e.gold[0] for e in examples]]
    triples[:, 2] = -1  # one hop
    return triples


def fitted(system: Any, examples: list[Example], settings: Any) -> list[dict[str, float]]:
    return fit_heads(
        system.heads, system.memory, asking(system, examples), rows(system, examples), settings, quiet
    )


def asking(system: Any, examples: list[Example]) -> Ask:
    vectors = system.encoder.encode([example.text for example in examples])
    return lambda drawn: system.heads(vectors[drawn])  # type: ignore[no-any-return]


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_fitted_heads_find_what_is_asked_for(
    layout: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(head_width=32), world, lm, encoder, layout=layout)
    examples = some_examples(system, 20)
    before = recall(system, examples)
    keys = system.memory.entities.vectors.clone()
    settings = retrieval(steps=150, batch_size=20, learning_rate=0.03)
    curve = fitted(system, examples, settings)
    assert len(curve) == 150
    assert curve[-1]["aux_loss"] < 0.3 * curve[0]["aux_loss"]
    assert recall(system, examples) > max(0.8, before)
    assert torch.equal(system.memory.entities.vectors, keys), "the memory's vectors stay as they are"


def test_the_same_seed_gives_the_same_heads(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    found = []
    for _ in range(2):
        system = opened(ours(), world, lm, encoder)
        examples = some_examples(system, 8)
        torch.manual_seed(3)
        fitted(system, examples, retrieval())
        found.append(torch.cat([p.flatten() for p in system.heads.parameters()]))
    assert torch.equal(*found)


def test_a_relation_that_training_does_not_ask_for_is_not_pushed_away(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """The heads come out the same wherever its vector lies; an asked one's vector matters."""
    found = []
    for moved in (None, 0, 1):
        system = opened(ours(), world, lm, encoder)
        relations = [0, 2]
        examples = [
            example
            for example in some_examples(system, len(system.memory))
            if system.memory.triples[example.gold[0], 1] in relations
        ]
        assert len({int(system.memory.triples[e.gold[0], 1]) for e in examples}) == 2
        if moved is not None:
            system.memory.relations.vectors[moved] *= -1
        torch.manual_seed(3)
        fitted(system, examples, retrieval())
        found.append(torch.cat([p.detach().flatten() for p in system.heads.parameters()]))
    usual, asked, other = found
    assert torch.equal(usual, other)
    assert not torch.equal(usual, asked)


def doubts(system: Any, examples: list[Example]) -> Tensor:
    return torch.tensor(system.doubt([example.text for example in examples]))


UNANSWERABLE = [Example(f"Who painted the {thing}?", (), ()) for thing in ("sea", "tree", "night", "moon")]


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_null_fact_is_calibrated_to_the_share_of_questions_without_an_answer(
    share: float, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """Where the slope of the bias is zero, the weighted mean of the probabilities is the share."""
    system = opened(ours(), world, lm, encoder)
    known = some_examples(system, 12)
    others = {name: p.clone() for name, p in system.state_dict().items() if not name.startswith("null.")}
    settings = retrieval(null_steps=1500, null_learning_rate=0.05)
    views = [(system.heads, known)], [(system.heads, UNANSWERABLE)]
    fit_null(system, *views, share, settings, quiet)
    with_answer, without = doubts(system, known).mean(), doubts(system, UNANSWERABLE).mean()
    assert (1 - share) * with_answer + share * without == pytest.approx(share, abs=0.01)
    assert without > with_answer + 0.1
    after = system.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in others.items())
    assert after["null.threshold"] == 0.5


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_threshold_refuses_the_share_that_it_may_of_what_is_answered_rightly(
    share: float, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(null_width=8), world, lm, encoder)
    kinds = {"template": 0, "human": 1}
    examples = [
        Example(e.text if kind == "template" else f"well, {e.text} hm", e.answers, e.gold, kind)
        for kind in kinds
        for e in some_examples(system, 10)
    ]
    # Every other question is answered rightly by what comes first, whatever that is.
    first = system.ground([e.text for e in examples], 1)[:, 0].tolist()
    golds = [fact if row % 2 else (fact + 1) % 20 for row, fact in enumerate(first)]
    examples = [replace(e, gold=(gold,)) for e, gold in zip(examples, golds, strict=True)]
    with torch.no_grad():
        system.null.outer.weight.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
        system.null.outer.bias.fill_(6.0)
    doubt = doubts(system, examples)
    assert doubt.min() > 0.5, "the lower bound of a threshold would hide what is tested here"
    found = choose_threshold(system, [*examples, *UNANSWERABLE], share)
    assert found.keys() == {"threshold", *kinds, "unanswerable"}
    rightly = doubt[1::2]
    assert (rightly > found["threshold"]).float().mean() <= share
    assert found["threshold"] == system.null.threshold.item() >= 0.5
    assert found["threshold"] in rightly.tolist(), "no spare"
    for kind, row in kinds.items():
        refused = (doubt.reshape(2, 10)[row] > found["threshold"]).float().mean().item()
        assert found[kind] == pytest.approx(refused)
    without = (doubts(system, UNANSWERABLE) > found["threshold"]).float().mean().item()
    assert found["unanswerable"] == pytest.approx(without)


def test_a_threshold_that_refuses_nothing_is_told(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    system = opened(ours(), world, lm, encoder)
    system.null.outer.bias.data.fill_(1000.0)
    found = choose_threshold(system, [*some_examples(system, 4), *UNANSWERABLE], 0.0)
    assert found == {"threshold": 1.0, "template": 0.0, "unanswerable": 0.0}
    assert "nothing is ever refused" in caplog.text
    caplog.clear()
    system.null.outer.bias.data.fill_(-3.0)
    assert choose_threshold(system, some_examples(system, 4), 0.0)["threshold"] < 1
    assert not caplog.text


def test_a_threshold_is_never_below_one_half(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(), world, lm, encoder)
    system.null.threshold.fill_(0.9)
    assert choose_threshold(system, some_examples(system, 4), 0.0) == {"threshold": 0.5, "template": 0.0}
    assert system.null.threshold == 0.5


def test_the_contrast_counts_no_gold_entity_as_a_negative() -> None:
    """Two questions about the same entity, and negatives that hold every entity: only others repel."""
    keys = torch.eye(3)
    query = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    gold = torch.tensor([0, 0])
    loss, accuracy = _contrast(query, keys, gold, retrieval(hard_negatives=3, random_negatives=0))
    # columns: each question's own gold, then the three nearest of either; the gold's copies are hidden
    slow = []
    for row in range(2):
        logits = (query[row] @ keys.T).tolist()
        others = [logits[1], logits[2]] * 2  # found once for each of the two questions
        total = torch.tensor([logits[0], *others]).logsumexp(0)
        slow.append((total - logits[0]).item())
    assert loss.item() == pytest.approx(sum(slow) / 2, rel=1e-4)
    assert accuracy in (0.5, 1.0)


def test_the_correction_learns_what_the_heads_do_not_know(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(entity_scale=0.1, relation_scale=0.1), world, lm, encoder, N=40)
    examples = some_examples(system, 8)
    heads = [p.detach().clone() for p in system.heads.parameters()]
    settings = retrieval(correction_steps=40, batch_size=8, learning_rate=0.05)
    curve = fit_correction(system, examples, asking(system, examples), settings, quiet)
    assert curve[-1]["aux_loss"] < curve[0]["aux_loss"]
    assert all(torch.equal(p, former) for p, former in zip(system.heads.parameters(), heads, strict=True))
    found = choose_weight(system, examples, [0.5, 1.0])
    assert found.keys() == {"0", "0.5", "1", "chosen"}
    assert found[f"{found['chosen']:g}"] == max(found["0"], found["0.5"], found["1"]) > found["0"]
    assert system.correction.beta.item() == found["chosen"]


def test_a_correction_that_is_worth_nothing_gets_no_weight(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    examples = some_examples(system, 3)
    found = choose_weight(system, examples, [1.0, 0.5])
    assert found["0"] == found["0.5"] == found["1"]
    assert found["chosen"] == 0.0 == system.correction.beta.item()
    query = system.query([example.text for example in examples])
    best = system.memory.search(query, 1).facts
    assert found["0"] == pytest.approx(gold_mask(best, examples).float().mean().item())


@pytest.mark.parametrize("better", [True, False])
def test_what_was_learned_with_the_reader_stays_where_it_finds_more(
    better: bool, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(head_width=32), world, lm, encoder)
    examples = some_examples(system, 20)
    prefixes = system.fitted_before

    def state() -> dict[str, Tensor]:
        return {n: v.clone() for n, v in system.state_dict().items() if n.startswith(prefixes)}

    states = [state()]
    fitted(system, examples, retrieval(steps=150, batch_size=20, learning_rate=0.03))
    states.append(state())
    before, after = states if better else states[::-1]
    system.load_state_dict(after, strict=False)
    found = keep_better(system, before, examples)
    assert (found["after"] > found["before"]) == better == bool(found["kept"])
    wanted = after if better else before
    assert all(torch.equal(value, wanted[name]) for name, value in state().items())
    assert keep_better(system, state(), examples)["kept"] == 0.0, "on a tie it is what was before"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": -1}, "train.retrieval.steps must be at least 0, not -1"),
        ({"random_negatives": -1}, "train.retrieval.random_negatives must be at least 0, not -1"),
        ({"k_validation": 0}, "train.retrieval.k_validation must be at least 1, not 0"),
        ({"relation_folds": 1}, "train.retrieval.relation_folds must be 0 or at least 2, not 1"),
        ({"trusts": [0.5, 1.5]}, r"train.retrieval.trusts must be in \[0, 1\], not \[0.5, 1.5\]"),
        ({"joint_rate": 2.0}, r"train.retrieval.joint_rate must be in \[0, 1\], not 2.0"),
        ({"batch_size": 0}, "train.retrieval.batch_size must be at least 1, not 0"),
        ({"rerank_batch": 0}, "train.retrieval.rerank_batch must be at least 1, not 0"),
        ({"rerank_slots": 1}, "train.retrieval.rerank_slots must be at least 2, not 1"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        retrieval(**changes)
