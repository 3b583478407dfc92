"""RAG at its best: what the reranker may change, what validation chooses, and what it refuses."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.memory.facts import Fact
from pipeline.model.adapter import load_adapter, save_adapter
from pipeline.model.ragtuned import DOUBTS
from pipeline.model.reranker import regrouped
from pipeline.model.system import Example
from pipeline.model.tuning import auroc, choose_k, choose_refusal, choose_search, fit_query, fit_reranker
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, rag, rag_tuned, retrieval, shaken, some_examples
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]
UNANSWERABLE = [Example(f"Who painted the {thing}?", (), ()) for thing in ("sea", "tree", "night", "moon")]
Make = Callable[..., Any]


@pytest.fixture
def make(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Make:
    def made(method: Any = None, **changes: Any) -> Any:
        return opened(method or rag_tuned(**changes), world, lm, encoder)

    return made


def quiet(items: Iterable[int], title: str) -> Iterable[int]:
    return items


def test_untrained_and_with_a_reranker_without_weight_it_is_rag(make: Make) -> None:
    plain, system = make(rag()), make()
    shaken(system.reranker)
    right, found = plain.found(QUESTIONS), system.found(QUESTIONS)
    assert torch.equal(found.facts, right.facts)
    torch.testing.assert_close(found.scores, right.scores)
    torch.testing.assert_close(found.doubt, right.doubt)
    for changes in ({"rerank": False}, {"head_width": 0}):
        assert torch.equal(make(**changes).found(QUESTIONS).facts, right.facts)
    system.beta.fill_(5.0)
    assert not torch.equal(system.found(QUESTIONS).facts, right.facts)


@torch.no_grad()
def test_a_reranker_changes_the_order_of_its_slots_alone(make: Make) -> None:
    """Of the 12 candidates those of the 4 best slots come first, by s + β·r; none is lost."""
    system = make()
    shaken(system.reranker)
    system.beta.fill_(2.0)
    candidates = system.candidates(QUESTIONS)
    place, keys = system.slots(candidates.facts)
    told = system.judged(QUESTIONS, keys)
    found = system.found(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        before = candidates.facts[row].tolist()
        assert sorted(found.facts[row].tolist()) == sorted(before)
        assert len(keys[row]) == 4
        assert torch.allclose(told[row], system.reranker([question] * 4, keys[row]), atol=1e-4)
        slots = place[row].tolist()
        judged = {
            fact: float(score + 2.0 * told[row, slot])
            for fact, slot, score in zip(before, slots, candidates.scores[row], strict=True)
            if slot < 4
        }
        first = found.facts[row].tolist()[: len(judged)]
        assert first == sorted(judged, key=lambda fact: (-judged[fact], before.index(fact)))
        rest = [fact for fact in before if fact not in judged]
        assert found.facts[row].tolist()[len(judged) :] == rest


def test_what_was_not_judged_never_overtakes_what_was() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, -torch.inf]])
    slot = torch.tensor([[0, 1, 2, 2, 2]])
    told = regrouped(scores, slot, torch.tensor([[-9.0, 1.0]]))
    assert told[0, :2].tolist() == [-4.0, 5.0]
    assert told[0, 2] <= -4.0
    assert told[0, 2] - told[0, 3] == pytest.approx(1.0)
    assert torch.equal(regrouped(scores, slot, torch.zeros(1, 2)), scores)


def test_the_fitted_query_finds_what_is_asked_for_and_leaves_the_memory(make: Make) -> None:
    system = make(head_width=32)
    examples = some_examples(system, 20)
    keys = system.memory.slots.vectors.clone()
    torch.manual_seed(0)
    settings = retrieval(steps=150, batch_size=20, learning_rate=0.03)
    curve = fit_query(system, examples, settings, quiet)
    assert curve[-1]["aux_loss"] < 0.5 * curve[0]["aux_loss"]
    assert torch.equal(system.memory.slots.vectors, keys)
    chosen = choose_search(system, examples, [])
    assert chosen["accuracy, tuned query, weight 0"] > max(0.8, chosen["accuracy, frozen query, weight 0"])
    assert chosen["tuned"] == system.query.tuned == 1


def test_a_query_that_training_spoiled_is_left_out(make: Make) -> None:
    system = make()
    plain = make(rag())
    good = [
        Example(f"the {fact.relation_noun} of {fact.head_label}", (fact.tail_label,), (row,))
        for row in range(12)
        if (fact := system.memory.fact(row))
    ]
    shaken(system.query, 5.0)
    chosen = choose_search(system, good, [])
    assert chosen["accuracy, frozen query, weight 0"] == 1.0 > chosen["accuracy, tuned query, weight 0"]
    assert chosen["tuned"] == system.query.tuned == 0
    assert torch.equal(system.found(QUESTIONS).facts, plain.found(QUESTIONS).facts)


def test_the_fitted_reranker_tells_the_right_slot_and_none(make: Make) -> None:
    system = make()
    torch.manual_seed(0)
    random.seed(0)
    examples = some_examples(system, 6)
    query = [p.detach().clone() for p in system.query.parameters()]
    settings = retrieval(rerank_steps=60, rerank_batch=8, rerank_learning_rate=0.02, rerank_slots=4)
    curve = fit_reranker(system, examples, UNANSWERABLE, 0.3, settings, quiet)
    assert sum(row["aux_loss"] for row in curve[-5:]) < 0.7 * sum(row["aux_loss"] for row in curve[:5])
    assert all(torch.equal(p, q) for p, q in zip(system.query.parameters(), query, strict=True))
    found = choose_search(system, [*examples, *UNANSWERABLE], [0.5, 2.0])
    tried = {w: found[f"accuracy, frozen query, weight {w:g}"] for w in (0.0, 0.5, 2.0)}
    assert max(tried.values()) > tried[0.0]
    assert found["weight"] > 0
    assert found["auroc, frozen query, rerank"] > 0.7


def test_weight_query_and_doubt_are_those_that_validation_prefers(make: Make) -> None:
    system = make()
    shaken(system)
    valid = [*some_examples(system, 10), *UNANSWERABLE]
    found = choose_search(system, valid, [0.5, 2.0])
    accuracy = {
        (tuned, w): found[f"accuracy, {name} query, weight {w:g}"]
        for tuned, name in enumerate(("frozen", "tuned"))
        for w in (0.0, 0.5, 2.0)
    }
    best = max(accuracy.values())
    assert accuracy[found["tuned"], found["weight"]] == best
    assert found["weight"] == min(w for (_, w), value in accuracy.items() if value == best)
    name = "tuned" if found["tuned"] else "frozen"
    parted = [found[f"auroc, {name} query, {doubt}"] for doubt in DOUBTS]
    assert parted[int(found["doubt"])] == max(parted)
    assert (system.beta, system.judge) == (pytest.approx(found["weight"]), found["doubt"])
    right = sum(system.ground([e.text], 1)[0, 0].item() in e.gold for e in valid if e.gold)
    assert right / 10 == pytest.approx(best)


def test_a_reranker_that_is_worth_nothing_gets_no_weight(make: Make) -> None:
    system = make()
    found = choose_search(system, some_examples(system, 6), [0.5, 2.0])
    assert (found["weight"], found["tuned"], found["doubt"]) == (0, 0, 0)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_threshold_refuses_about_the_share_that_it_may(share: float, make: Make) -> None:
    system = make()
    examples = some_examples(system, 20)
    human = [replace(e, text=f"hm, {e.text}", kind="human") for e in examples]
    # Whatever comes first answers each question but every fourth, which is none of those that count.
    for asked in (examples, human):
        best = system.found([e.text for e in asked]).facts[:, 0].tolist()
        golds = [fact if row % 4 else (fact + 1) % 20 for row, fact in enumerate(best)]
        asked[:] = [replace(e, gold=(gold,)) for e, gold in zip(asked, golds, strict=True)]
    found = choose_refusal(system, [*examples, *human, *UNANSWERABLE], share)
    doubts = system.found([e.text for e in [*examples, *human]]).doubt.reshape(2, 20)
    rightly = doubts[:, [row for row in range(20) if row % 4]]
    refused = (rightly > found["threshold"]).float().mean()
    assert share - 0.051 < refused <= share, "what may be is refused, up to a question"
    for kind, asked in (("template", examples), ("human", human), ("unanswerable", UNANSWERABLE)):
        with system.attached():
            refused = system.reply([e.text for e in asked]).refused
        assert sum(refused) / len(asked) == pytest.approx(found[kind])


def test_no_share_refuses_none(make: Make) -> None:
    system = make()
    found = choose_refusal(system, [*some_examples(system, 4), *UNANSWERABLE], 0.0)
    assert found == {"threshold": -1.0, "template": 0.0, "unanswerable": 0.0}
    assert system.refused(torch.tensor([2.0, 99.0])) == [False, False]


def test_k_is_the_number_of_facts_that_surprises_least(make: Make) -> None:
    system = make(ks=[3, 1, 2])
    shaken(system, 0.05)
    examples = some_examples(system, 5)
    with system.attached():
        found = choose_k(system, [*examples, *UNANSWERABLE])
        slow = {}
        for k in (1, 2, 3):
            lost = 0.0
            for example in examples:
                read = system.ground([example.text], k)[0].tolist()
                target = system.target(example, read)
                lost += float(system.surprise([example.text], [target], [read])) / 5
            slow[k] = lost
        assert [found[str(k)] for k in (1, 2, 3)] == pytest.approx(list(slow.values()), rel=1e-3)
        assert found["k"] == system.shown == min(slow, key=lambda k: slow[k])
        assert {len(row) for row in system.reply(QUESTIONS).facts} == {found["k"]}


def test_an_adapter_is_asked_with_five_facts_whatever_it_chose(make: Make, tmp_path: Path) -> None:
    chosen = make(ks=[1, 3])
    chosen.k.fill_(1)
    save_adapter(chosen, tmp_path, {"method": chosen.method})
    fixed = make(ks=[5])
    load_adapter(fixed, tmp_path)
    with chosen.attached(), fixed.attached():
        assert {len(row) for row in chosen.reply(QUESTIONS).facts} == {1}
        reply = fixed.reply(QUESTIONS)
    assert {len(row) for row in reply.facts} == {5}
    assert reply.facts == fixed.ground(QUESTIONS, 5).tolist()


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_the_next_answer_sees_an_upsert_and_a_delete(beta: float, make: Make) -> None:
    system = make(rag_tuned(ks=[1]))
    system.beta.fill_(beta)
    system.k.fill_(1)
    asked = ["the mayor of Newland"]
    new = Fact("new", "P9", "X", "Newland", "mayor", "Newman")
    with system.attached():
        before = system.reply(asked)
        [row] = system.memory.upsert([new]).facts
        assert row not in before.candidates[0]
        assert system.reply(asked).facts == [[row]]
        system.memory.delete([new.key])
        assert system.reply(asked) == before


def test_an_adapter_that_was_read_back_answers_alike(make: Make, tmp_path: Path) -> None:
    system = make()
    shaken(system, 0.2)
    for buffer, value in ((system.beta, 0.5), (system.k, 2), (system.judge, 2), (system.threshold, 0.5)):
        buffer.fill_(value)
    save_adapter(system, tmp_path, {"method": system.method})
    again = make()
    load_adapter(again, tmp_path)
    replies = []
    for made in (system, again):
        with made.attached():
            replies.append(made.reply(QUESTIONS))
    assert replies[0] == replies[1]
    with pytest.raises(UserError, match=r"use the configuration in adapter\.json beside it, or train again"):
        load_adapter(make(rerank=False), tmp_path)


def test_without_a_validation_question_nothing_is_chosen(make: Make) -> None:
    system = make()
    for choose in (
        lambda valid: choose_search(system, valid, []),
        lambda valid: choose_refusal(system, valid, 0.1),
        lambda valid: choose_k(system, valid),
    ):
        for valid in ([], UNANSWERABLE):
            with pytest.raises(UserError, match=r"no validation question has an answer; raise splits\.valid"):
                choose(valid)
    assert system.found([]).facts.shape == (0, 12)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("query", r"the score of the query is nan; lower train\.retrieval\.learning_rate"),
        ("reranker", r"the score of the reranker is nan; lower train\.retrieval\.rerank_learning_rate"),
    ],
)
def test_scores_that_are_no_numbers_are_errors(part: str, text: str, make: Make) -> None:
    system = make()
    with torch.no_grad():
        for parameter in getattr(system, part).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(UserError, match=text):
        choose_search(system, some_examples(system), [1.0])


def test_a_reader_that_gives_no_numbers_chooses_no_k(make: Make) -> None:
    system = make()
    with torch.no_grad():
        next(system.lowrank.parameters()).fill_(torch.nan)
    with (
        system.attached(),
        pytest.raises(UserError, match=r"surprise of an answer is nan; lower train\.learning_rate"),
    ):
        choose_k(system, some_examples(system))


def test_auroc_counts_the_pairs_that_are_in_order() -> None:
    assert auroc([0.1, 0.2, 0.3, 0.3], [False, False, True, True]) == 1.0
    assert auroc([0.1, 0.2, 0.2, 0.0], [False, False, True, True]) == pytest.approx(1.5 / 4)
    assert auroc([0.1, 0.2], [False, False]) == auroc([], []) == 0.5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ks": []}, r"method\.ks must hold numbers from 1, not \[\]"),
        ({"ks": [0, 1]}, r"method\.ks must hold numbers from 1, not \[0, 1\]"),
        ({"refuse_answerable": 1.0}, r"method\.refuse_answerable must be in \[0, 1\), not 1\.0"),
        ({"reranked": 1}, r"method\.head_width must be at least 0, reranked at least 2"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rag_tuned(**changes)
