"""Answers the questions of many clients: one thread owns the model."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from pipeline.serve.session import Answer, Session
from pipeline.serve.settings import Serve


class BusyError(Exception):
    """As many questions wait as may."""


class ClosedError(Exception):
    """The engine is ending, or has."""


@dataclass(frozen=True)
class Asked:
    """A question of a client."""

    question: str
    as_of: str = ""
    """A date to answer as of; empty for the present."""
    k: int | None = None
    """Facts to read; None for as many as the memory's settings say."""
    limit: int | None = None
    """Tokens of the answer at most; None for as many as the adapter was trained with."""


@dataclass(eq=False)
class Ticket:
    """A question on its way."""

    asked: Asked
    told: Callable[[object], None]
    """Called with the `Answer`, or with the exception that kept it from coming, by the engine's thread."""
    cancelled: Event = field(default_factory=Event)


class Engine:
    """Answers questions in their order, by a thread of its own."""

    def __init__(self, session: Session, settings: Serve) -> None:
        self._session, self._settings = session, settings
        self._asked: SimpleQueue[Ticket] = SimpleQueue()
        self._work: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, asked: Asked, told: Callable[[object], None]) -> Ticket:
        """Take a question; its answer is told.

        Raises:
            BusyError: too many wait.
            ClosedError: the engine is ending.
        """
        if self._ended.is_set():
            raise ClosedError
        if self._asked.qsize() >= self._settings.waiting:
            raise BusyError
        ticket = Ticket(asked, told)
        self._asked.put(ticket)
        return ticket

    def run(self, work: Callable[[], Any]) -> "Future[Any]":
        """Let the thread that owns the model do `work`, between two steps of its answers.

        Raises:
            BusyError: too many wait.
            ClosedError: the engine is ending.
        """
        if self._ended.is_set():
            raise ClosedError
        if self._work.qsize() >= self._settings.waiting:
            raise BusyError
        done: Future[Any] = Future()
        self._work.put((work, done))
        return done

    def close(self) -> None:
        """Let what was asked end, and take no further question."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not (self._ended.is_set() and self._asked.empty()):
            self._do_work()
            try:
                ticket = self._asked.get(timeout=0.02)
            except Empty:
                continue
            if ticket.cancelled.is_set():
                continue
            try:
                found: Answer | Exception = self._session.ask(ticket.asked.question)
            except Exception as error:
                found = error
            ticket.told(found)

    def _do_work(self) -> None:
        while not self._work.empty():
            work, done = self._work.get()
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)
