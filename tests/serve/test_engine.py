"""The engine under many threads: whom it takes, whom it turns away, what it sees, and how it ends."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.serve.engine import Engine
from pipeline.serve.session import Session
from pipeline.serve.tickets import Asked, BusyError, ClosedError
from tests.serve.hearing import Heard, same
from tests.serve.served import serve_settings
from tests.serve.small import Trained

QUESTION = "What is the capital of France?"
NAMES = ["France", "Peru", "Aland", "Borland"]


@contextmanager
def engine(trained: Trained, tmp_path: Path, **changes: Any) -> Iterator[tuple[Session, Engine]]:
    """An engine on a memory of three facts, that is open for writing."""
    session = Session.open(trained.adapter, tmp_path / "memory", trained.facts, write=True, sync="none")
    made = Engine(session, serve_settings(trained, tmp_path, nice=0, **changes))
    try:
        yield session, made
    finally:
        made.close(0)
        session.close()


def test_many_threads_get_the_answers_of_one_at_a_time(trained: Trained, tmp_path: Path) -> None:
    questions = [f"What is the {what} of {name}?" for name in NAMES for what in ("capital", "currency")]
    with engine(trained, tmp_path) as (session, made):
        right = {question: made.run(lambda q=question: session.ask(q)).result() for question in questions}

        def client(seed: int) -> None:
            draw = random.Random(seed)
            for question in draw.sample(questions, 5):
                heard = Heard()
                made.ask(Asked(question), heard)
                same(heard.wait().answer(question), right[question])

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = made.metrics.told().decode()
    assert 'living_memory_questions_total{end="failed"}' not in told
    ended = [line for line in told.splitlines() if line.startswith("living_memory_questions_total")]
    assert sum(float(line.split()[-1]) for line in ended) == 30


def test_what_was_acknowledged_before_a_question_is_seen_by_it(trained: Trained, tmp_path: Path) -> None:
    """Others ask all the time, and others write, so that looking up, reading and changing overlap."""
    with engine(trained, tmp_path) as (session, made):
        memory, stop = session.system.memory, threading.Event()
        wrong: list[Any] = []

        def ask_on() -> None:
            while not stop.is_set():
                heard = Heard()
                made.ask(Asked("What is the currency of France?"), heard)
                heard.wait()

        def change(head: str) -> None:
            for number in range(12):
                tail = ("Lima", "Paris")[number % 2]
                session.upsert(f"{head} | capital | {tail}")
                version = memory.version  # type: ignore[attr-defined]
                heard = Heard()
                made.ask(Asked(f"capital of {head}"), heard)
                began = heard.wait().began
                read = [one.fact.tail for one in began.facts if one.fact.key[:2] == (head, "capital")]
                if read != [tail] or began.version < version:
                    wrong.append((head, tail, read))

        session.upsert("France | capital | Paris", "Peru | capital | Lima")
        asking = [threading.Thread(target=ask_on) for _ in range(2)]
        for thread in asking:
            thread.start()
        change("France")
        change("Peru")
        stop.set()
        for thread in asking:
            thread.join()
        assert wrong == []


def held_up(made: Engine) -> threading.Event:
    """Let the engine's thread wait until the event is set; return once it waits."""
    begun, free = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert free.wait(60)

    made.run(wait)
    assert begun.wait(60)
    return free


def test_too_many_are_turned_away_and_those_that_left_give_their_place(
    trained: Trained, tmp_path: Path
) -> None:
    with engine(trained, tmp_path, batch=2, waiting=1) as (_, made):
        free = held_up(made)
        heard = [Heard() for _ in range(3)]
        tickets = [made.ask(Asked(QUESTION), one) for one in heard]
        with pytest.raises(BusyError):
            made.ask(Asked(QUESTION), Heard())
        tickets[0].cancel()
        free.set()
        assert heard[1].wait().ended.text == heard[2].wait().ended.text
        assert heard[0].events == []
        again = Heard()
        made.ask(Asked(QUESTION), again)
        assert again.wait().ended.text == heard[1].ended.text
        assert 'turned_away_total{why="busy"} 1.0' in made.metrics.told().decode()
        assert 'questions_total{end="cancelled"} 1.0' in made.metrics.told().decode()


def test_what_was_taken_is_answered_before_the_end_and_nothing_is_taken_any_more(
    trained: Trained, tmp_path: Path
) -> None:
    with engine(trained, tmp_path) as (_, made):
        free, heard = held_up(made), [Heard() for _ in range(3)]
        for one in heard:
            made.ask(Asked(QUESTION), one)
        made.drain()
        with pytest.raises(ClosedError):
            made.ask(Asked(QUESTION), Heard())
        with pytest.raises(ClosedError):
            made.run(lambda: None)
        free.set()
        made.close(60)
        assert {one.wait().ended.text for one in heard} == {heard[0].ended.text}
        assert not made.alive


def test_what_takes_longer_than_the_grace_is_told_so(trained: Trained, tmp_path: Path) -> None:
    with engine(trained, tmp_path) as (_, made):
        free, heard = held_up(made), Heard()
        made.ask(Asked(QUESTION), heard)
        threading.Timer(0.2, free.set).start()
        made.close(0)
        heard.wait()
        assert heard.error is None or isinstance(heard.error, ClosedError)
        assert not made.alive


def test_wrong_questions_and_clients_that_can_not_be_told_harm_nobody(
    trained: Trained, tmp_path: Path
) -> None:
    with engine(trained, tmp_path) as (_, made):
        free = held_up(made)
        good, long, date = Heard(), Heard(), Heard()

        def gone(event: Any) -> None:
            raise ConnectionError("gone")

        made.ask(Asked(QUESTION), gone)
        made.ask(Asked("x" * 1001), long)
        made.ask(Asked(QUESTION, as_of="19th century"), date)
        made.ask(Asked(QUESTION), good)
        free.set()
        assert good.wait().ended.text
        assert isinstance(long.wait().error, UserError)
        assert isinstance(date.wait().error, UserError)
        with pytest.raises(ZeroDivisionError):
            made.run(lambda: 1 / 0).result()
        assert made.alive


def test_it_is_ready_once_it_has_answered_even_from_an_empty_memory(trained: Trained, tmp_path: Path) -> None:
    with engine(trained, tmp_path) as (session, made):
        while not made.ready:
            time.sleep(0.01)
        for key in [session.system.memory.key(row) for row in range(3)]:
            session.system.memory.delete([key])
        heard = Heard()
        made.ask(Asked(QUESTION), heard)
        assert "holds no fact" in str(heard.wait().error)
        other = Engine(session, serve_settings(trained, tmp_path, nice=0))
        while not other.ready:
            time.sleep(0.01)
        other.close(0)
