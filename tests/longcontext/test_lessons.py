"""What the retriever learns from: where needles stand, who answers what, and what is kept apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.longcontext.attending import Watching
from pipeline.longcontext.episodes import Replay, Window, answered, asked, read
from pipeline.longcontext.lessons import FOLDS, IGNORED, TEST, TRAIN, Lessons, fold_of, lessons, needles
from pipeline.longcontext.losses import gates
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import Teaching
from pipeline.longcontext.training import Whitened, started
from tests.longcontext.standins import long_context
from tests.tiny import tiny_decoder, tiny_tokenizer

WINDOW = Window(first_layer=1, sinks=8, tokens=16, block=8)
TOKENS = 2048


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def teaching(**changes: Any) -> Teaching:
    return replace(
        long_context().training.teaching,
        **{"texts": {"train": 3, "valid": 2, "test": 2}, "tokens": TOKENS, "fillers": ["classic"]} | changes,
    )


@pytest.fixture(scope="module")
def taught(tokenizer: Any) -> Lessons:
    return lessons(tokenizer, teaching(), WINDOW, TRAIN, 0)


def said(tokenizer: Any, ids: torch.Tensor) -> str:
    text: str = tokenizer.decode(ids.tolist())
    return text


def block_texts(tokenizer: Any, taught: Lessons, question: int, which: torch.Tensor) -> str:
    """Return the text of the marked blocks of a question's text."""
    row = taught.ids[taught.rows[question]]
    starts = (WINDOW.sinks + WINDOW.block * which[question].nonzero()[:, 0]).tolist()
    return said(tokenizer, torch.cat([row[start : start + WINDOW.block] for start in starts]))


def test_the_marked_blocks_hold_the_answer(tokenizer: Any, taught: Lessons) -> None:
    assert len(taught.rows) > 5
    checked = 0
    for question in range(len(taught.rows)):
        answer = said(tokenizer, taught.answers[question][taught.answers[question] != IGNORED]).strip()
        assert answer.isdecimal()
        assert len(answer) == 10
        text = taught.ids[taught.rows[question]]
        assert answer in said(tokenizer, text)
        if answer in said(tokenizer, text[WINDOW.sinks : -WINDOW.tokens]):  # can be fetched whole
            assert answer in block_texts(tokenizer, taught, question, taught.exact)
            checked += 1
        assert bool((taught.gold[question] | ~taught.exact[question]).all())
    assert checked > 3


def test_what_asks_ends_with_the_question(tokenizer: Any, taught: Lessons) -> None:
    assert taught.asked.shape[1] == teaching().asked
    for question in range(len(taught.rows)):
        assert said(tokenizer, taught.asked[question]).endswith(" is")


def test_no_answer_of_a_fold_is_one_of_another(tokenizer: Any) -> None:
    told = {fold: lessons(tokenizer, teaching(), WINDOW, fold, 0) for fold in FOLDS}
    keys = {fold: {tuple(row) for row in one.answers.tolist()} for fold, one in told.items()}
    assert not keys[TRAIN] & keys[TEST]
    named = {
        fold: {piece.question for piece in needles(10, fold, np.random.default_rng(0))} for fold in FOLDS
    }
    named = {fold: {asks for asks in own if " of " in asks or " did " in asks} for fold, own in named.items()}
    assert all(named.values())
    assert not named[TRAIN] & named[TEST]
    assert {fold_of(f"question {number}") for number in range(100)} == set(FOLDS)


def test_lessons_depend_on_their_seed_alone(tokenizer: Any, taught: Lessons) -> None:
    again, other = (lessons(tokenizer, teaching(), WINDOW, TRAIN, seed) for seed in (0, 1))
    assert torch.equal(again.ids, taught.ids)
    assert torch.equal(again.gold, taught.gold)
    assert not torch.equal(other.ids, taught.ids)


def test_a_needle_that_another_text_asks_for_alike_is_no_wrong_answer(
    tokenizer: Any, taught: Lessons
) -> None:
    states = torch.randn(len(taught.ids), taught.gold.shape[1], WINDOW.block, 16)
    retriever = started(16, replace(long_context().training.towers, kept=16, size=8), states.flatten(0, 2), 0)
    recorded = type("Recorded", (), {})()
    recorded.lessons, recorded.blocks = taught, taught.gold.shape[1]
    recorded.texts = type("Texts", (), {"states": states})
    recorded.asking = torch.randn(len(taught.rows), teaching().asked, 16)
    whitened = Whitened(retriever, recorded)
    gold = whitened.everywhere(taught.gold)
    known = whitened.known(gold)
    assert gold.sum() == taught.gold.sum()
    assert bool((known | ~gold).all())  # its own are known
    alike = [
        (one, other)
        for one in range(len(taught.rows))
        for other in range(len(taught.rows))
        if taught.alike[one] == taught.alike[other] and taught.rows[one] != taught.rows[other]
    ]
    assert alike
    for one, other in alike:
        assert not bool((known[one] & gold[other]).any())


def test_open_gates_read_as_a_replay_does_and_closed_ones_as_without(tokenizer: Any) -> None:
    runner = Runner(tiny_decoder("llama", len(tokenizer)).eval().requires_grad_(False), chunk=64)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (2, 64), generator=draw)
    texts = read(runner, ids, WINDOW)
    rows, chosen = torch.tensor([0, 1]), torch.tensor([[0, 2], [1, 3]])
    question = torch.randint(len(tokenizer), (2, 5), generator=draw)
    states = asked(runner, texts, rows, question)

    def logits(replay: Replay) -> torch.Tensor:
        found: torch.Tensor = answered(runner, replay, states, 3)
        return found

    def watching(score: float) -> Watching:
        scores = torch.full((2, texts.states.shape[1]), score)
        return Watching(runner, texts, rows, chosen, gates(scores, chosen, 1.0)[1], "entropy")

    plain = logits(Replay(texts, rows, chosen))
    without = logits(Replay(texts, rows, chosen[:, :0]))
    opened, closed = watching(40.0), watching(-40.0)
    torch.testing.assert_close(logits(opened), plain)
    assert not torch.allclose(plain, without)
    assert bool((opened.total > 0).all())
    # A closed gate takes weight away, though positions stay those of what was fetched.
    shut = logits(closed)
    assert not torch.allclose(shut, plain)
    assert float(closed.total.sum()) < float(opened.total.sum())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fillers": ["prose"]}, "teaching.fillers must be of classic, manual, real, not 'prose'"),
        ({"fillers": []}, "teaching.fillers must not be empty"),
        ({"sets": ["squad"]}, "teaching.sets must be of nq, hotpotqa, not 'squad'"),
    ],
)
def test_unknown_texts_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        teaching(**changes)
