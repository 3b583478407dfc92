"""Answers said side by side are those that `Session.ask` gives one at a time, whenever questions come."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.serve.metrics import Metrics
from pipeline.serve.session import Answer, Session
from pipeline.serve.speaking import Speaking, Voice
from pipeline.serve.start import Started
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import PROJECTIONS, opened, ours
from tests.serve.hearing import Heard, asked, same
from tests.tiny import SmallWorld, memory_settings, tiny_language_model

NAMES = ["Aland", "Borland", "Cland", "Dorland", "Esland", "Forland"]
QUESTIONS = [
    *(f"What is the capital of {name}?" for name in NAMES),
    *(
        "currency of Aland",
        "Tell me, if you happen to know it, the official language that Cland has, please?",
    ),
    *("x", "What is the currency of the country whose official language is Alandish?"),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two hops": {"hops": 2},
    "states": {"question": "states"},
    "letters, no shift": {"letters": True, "shift": False},
    "apart": {"isolate": True},
}


def made(world: SmallWorld, lm: LanguageModel, encoder: Encoder, **changes: Any) -> Session:
    """Return a session whose answers end after different numbers of tokens, and which refuses some."""
    system = opened(ours(answer_tokens=7, **changes), world, lm, encoder)
    system.memory.settings = memory_settings(entities=1000)
    system.eval()
    session = Session(Started(system, Path("none"), Path("none")))
    system.null.threshold.fill_(1.0)
    answers = [session.ask(question) for question in QUESTIONS]
    doubts = sorted(answer.refusal for answer in answers)
    system.null.threshold.fill_(doubts[-2] - 1e-3)
    # A token that this random model says now and then shall end an answer.
    ends = [tokens[2] for tokens in said(session).values() if len(tokens) > 2]
    if ends:
        system.reader.stop = max(set(ends), key=ends.count)
    return session


def said(session: Session) -> dict[str, list[int]]:
    """Return the tokens of answers of more than one token."""
    voice = Voice(session, Metrics(), fast=False)
    with voice.attached(), torch.no_grad():
        all_ = running = voice.begin([asked(question, Heard()) for question in QUESTIONS])
        while running:
            running = voice.step(running)
    return {one.ticket.asked.question: one.spoken.tokens for one in all_}


class Alone:
    """What is right, one question at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.ask = cache(self._ask)

    def _ask(self, question: str, limit: int | None) -> Answer:
        system = self._session.system
        most = system.answer_tokens
        system.answer_tokens = min(limit or most, most)
        try:
            return self._session.ask(question)
        finally:
            system.answer_tokens = most


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> tuple[Session, Alone]:
    session = made(world, lm, encoder, **VARIANTS[request.param])
    return session, Alone(session)


Arrivals = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(QUESTIONS),
            st.one_of(st.none(), st.integers(1, 9)),  # the longest answer that is wanted
            st.one_of(st.none(), st.none(), st.integers(0, 4)),  # steps until the client goes away
        ),
        max_size=4,
    ),
    min_size=1,
    max_size=5,
)


def played(session: Session, arrivals: list[list[tuple[str, int | None, int | None]]]) -> list[Any]:
    """Let questions arrive before each step, and clients leave; return each question with what it heard."""
    voice = Voice(session, Metrics(), fast=False)
    running: list[Speaking] = []
    all_: list[Any] = []
    leaving: list[Any] = []
    with voice.attached(), torch.no_grad():
        for step in range(40):
            tickets = []
            for question, limit, patience in arrivals[step] if step < len(arrivals) else []:
                heard = Heard()
                ticket = asked(question, heard, limit=limit)
                all_.append((question, limit, patience, heard))
                leaving.append((ticket, None if patience is None else step + patience))
                tickets.append(ticket)
            running = running + (voice.begin(tickets) if tickets else [])
            for ticket, when in leaving:
                if when == step:
                    ticket.cancel()
            running = voice.step(running)
    assert not running
    return all_


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=Arrivals)
def test_whatever_arrives_and_leaves_answers_are_those_of_one_at_a_time(
    variant: tuple[Session, Alone], arrivals: list[list[tuple[str, int | None, int | None]]]
) -> None:
    session, alone = variant
    for question, limit, patience, heard in played(session, arrivals):
        if patience is not None and not heard.done.is_set():
            continue  # it went away, and was told nothing wrong before
        same(heard.answer(question), alone.ask(question, limit))


def test_the_questions_are_refused_answered_and_end_in_both_ways(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """Else the property above would hold of nothing."""
    session = made(world, lm, encoder)
    heard = [h for *_, h in played(session, [[(question, None, None) for question in QUESTIONS]])]
    assert {h.began.refused for h in heard} == {True, False}
    assert {h.ended.reason for h in heard} == {"stop", "length"}
    assert len({h.ended.tokens for h in heard}) > 2


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "gpt_neox"])
def test_other_models_say_the_same_side_by_side(
    family: str, world: SmallWorld, encoder: Encoder, tmp_path: Path
) -> None:
    """One of them attends to a window in most layers, in which padding must not count."""
    lm = tiny_language_model(tmp_path, family)
    session = made(world, lm, encoder, projections=PROJECTIONS[family])
    arrivals = [[(QUESTIONS[0], None, None)], [(QUESTIONS[7], None, None), (QUESTIONS[8], 3, None)], [], []]
    arrivals += [[(QUESTIONS[1], None, 1), (QUESTIONS[9], None, None)]]
    alone = Alone(session)
    for question, limit, patience, heard in played(session, arrivals):
        if patience is None:
            same(heard.answer(question), alone.ask(question, limit))


def test_a_question_as_of_a_date_or_with_other_facts_stands_beside_the_others(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    session = made(world, lm, encoder)
    memory = session.system.memory
    question = QUESTIONS[0]
    head, relation, tail = session.ask(question).facts[0].key
    session.upsert(f"{head} | {relation} | {'M1' if tail != 'M1' else 'M0'}")
    voice = Voice(session, Metrics(), fast=False)
    heard = [Heard(), Heard(), Heard(), Heard()]
    wanted: list[dict[str, Any]] = [{}, {"as_of": "1950"}, {"k": 1}, {"k": 0}]
    with voice.attached(), torch.no_grad():
        tickets = [asked(question, h, **more) for h, more in zip(heard, wanted, strict=True)]
        running = voice.begin(tickets)
        while running:
            running = voice.step(running)
    same(heard[0].answer(question), session.ask(question))
    session.as_of("1950")
    same(heard[1].answer(question), session.ask(question))
    session.as_of("")
    assert heard[0].answer(question).facts != heard[1].answer(question).facts
    memory.settings = replace(memory.settings, k=1)
    same(heard[2].answer(question), session.ask(question))
    assert isinstance(heard[3].error, UserError)
    assert "memory.k must be at least 1, not 0" in str(heard[3].error)
    assert session.system.memory is memory


def test_an_error_in_the_model_fails_only_the_question_that_it_concerns(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """A hook in the model fails whenever a certain token is in the batch: at reading, then at a step."""
    session = made(world, lm, encoder)
    system, right = session.system, {question: session.ask(question) for question in QUESTIONS}
    spoken = said(session)
    common = {token for prompt in system.reader.prompts(QUESTIONS) for token in prompt}
    poison = {}
    for question, tokens in spoken.items():
        others = common.union(*(spoken[other] for other in spoken if other != question))
        if rare := [token for token in tokens[:-1] if token not in others]:
            poison[question] = rare[0]
    assert poison, "some answer has a token that no other has"
    [(bad, token), *_] = poison.items()

    def fail(module: Any, inputs: Any) -> None:
        if bool((inputs[0] == token).any()):
            raise RuntimeError("of the model")

    handle = system.reader.lm.get_input_embeddings().register_forward_pre_hook(fail)
    try:
        heard = dict.fromkeys(right)
        arrivals: list[Any] = [[(question, None, None) for question in right]]
        for question, _, _, one in played(session, arrivals):
            heard[question] = one
    finally:
        handle.remove()
    assert str(heard[bad].error) == "of the model"  # type: ignore[union-attr]
    for question, answer in right.items():
        if question != bad:
            same(heard[question].answer(question), answer)  # type: ignore[union-attr]


def test_a_question_that_is_alone_goes_the_fast_way_to_the_same_answer(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """By what is computed as it is written: compiled, it takes minutes."""
    session = made(world, lm, encoder)
    right = {question: session.ask(question) for question in QUESTIONS}
    voice = Voice(session, Metrics(), fast=False)
    with voice.attached(), torch.no_grad():
        assert not voice.alone(asked(QUESTIONS[0], Heard())), "before anything is compiled"
    session.compile("")
    with voice.attached(), torch.no_grad():
        for question, answer in right.items():
            heard = Heard()
            assert voice.alone(asked(question, heard))
            same(heard.answer(question), answer)
        short, wrong = Heard(), Heard()
        assert voice.alone(asked(QUESTIONS[0], short, limit=1))
        assert (short.ended.tokens, short.ended.reason) == (1, "length")
        assert voice.alone(asked("", wrong))
        assert isinstance(wrong.error, UserError)
        assert not voice.alone(asked(QUESTIONS[0], Heard(), as_of="1950"))
        assert not voice.alone(asked(QUESTIONS[0], Heard(), k=1))
