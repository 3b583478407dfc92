"""Answers the questions of many clients: one thread owns the model.

Questions that arrive while others are answered join them at the next token. Those that arrive together are
looked up and read as one batch; then their keys, values and facts stand beside the others'. A change of the
memory waits for none of it: what a question sees is what the memory holds when it is looked up, which is
after it arrived.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any

import torch

from pipeline.serve.metrics import Metrics
from pipeline.serve.session import Session
from pipeline.serve.settings import Serve
from pipeline.serve.speaking import Speaking, Voice
from pipeline.serve.tickets import Asked, BusyError, ClosedError, Event, Ticket

logger = logging.getLogger(__name__)


class Engine:
    """Takes questions of any thread, and answers them by a thread of its own.

    Args:
        session: whose system answers; nobody else may use its language model.
        settings: how many questions at a time, and how many may wait.
        metrics: where it counts.
    """

    def __init__(self, session: Session, settings: Serve, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self.metrics = metrics or Metrics()
        self._voice = Voice(session, self.metrics, settings.fast)
        self._changed = Condition()
        self._waiting: deque[Ticket] = deque()
        self._work: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._running: list[Speaking] = []
        self._closing = self._hurrying = False
        self.ready = False
        """Whether the model has answered once."""
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many questions wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many questions are being answered."""
        return len(self._running)

    @property
    def closing(self) -> bool:
        """Whether no further question is taken."""
        return self._closing

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def ask(self, asked: Asked, told: Callable[[Event], None]) -> Ticket:
        """Take a question, whose answer is told; see `Ticket`.

        Raises:
            BusyError: too many wait.
            ClosedError: the engine is ending.
        """
        ticket = Ticket(asked, told)
        with self._changed:
            self._check(self._waiting)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def run(self, work: Callable[[], Any]) -> "Future[Any]":
        """Let the thread that owns the model do `work`, between two steps of its answers.

        Raises:
            BusyError: too many wait.
            ClosedError: the engine is ending.
        """
        done: Future[Any] = Future()
        with self._changed:
            self._check(self._work)
            self._work.append((work, done))
            self._changed.notify()
        return done

    def _check(self, queue: "deque[Any]") -> None:
        if self._closing or not self._thread.is_alive():
            self.metrics.turned_away.labels("closing").inc()
            raise ClosedError("the server is stopping")
        # What is taken at once hasn't to wait.
        free = self._settings.batch - len(self._running) if queue is self._waiting else 0
        if len(queue) >= self._settings.waiting + max(free, 0):
            self.metrics.turned_away.labels("busy").inc()
            raise BusyError(f"{len(queue)} wait already")

    def drain(self) -> None:
        """Take no further question from now on; those that were taken are answered."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self, grace: float | None = None) -> None:
        """End: what was taken is answered, unless it takes longer than `grace` seconds."""
        self.drain()
        self._thread.join(self._settings.grace if grace is None else grace)
        with self._changed:
            self._hurrying = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        _stand_back(self._settings)
        with torch.no_grad(), self._voice.attached():
            self._warm()
            while self._turn():
                pass
        for ticket in [*(one.ticket for one in self._running), *self._waiting]:
            self._voice.fail(ticket, ClosedError("the server stopped"))
        for _, done in self._work:
            done.set_exception(ClosedError("the server stopped"))
        self._running = []

    def _warm(self) -> None:
        try:
            self._voice.warm()
            self.ready = True
        except Exception:
            logger.exception("the model can't answer")

    def _turn(self) -> bool:
        """Do what is to be done now: searches, new questions, one token; return whether to go on."""
        with self._changed:
            while not (self._running or self._waiting or self._work or self._closing):
                self._changed.wait()
            idle = not (self._running or self._waiting or self._work)
            if self._hurrying or (self._closing and idle):
                return False
            work, room = list(self._work), self._settings.batch - len(self._running)
            self._work.clear()
            came = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        for task, done in work:
            _do(task, done)
        try:
            self._begin([ticket for ticket in came if not self._gave_up(ticket)])
            if self._running:
                self._running = self._voice.step(self._running)
        except Exception as error:  # what concerns single questions was told to them
            self._voice.forget()
            for ticket in [*came, *(one.ticket for one in self._running if one.ticket not in came)]:
                self._voice.fail(ticket, error)
            self._running = []
        return True

    def _begin(self, tickets: Sequence[Ticket]) -> None:
        """Look up and read new questions, beside those that are being answered."""
        if not tickets:
            return
        now = time.perf_counter()
        for ticket in tickets:
            self.metrics.waited.observe(now - ticket.arrived)
        if len(tickets) == 1 and not self._running and self._voice.alone(tickets[0]):
            return
        self._running = self._running + self._voice.begin(tickets)

    def _gave_up(self, ticket: Ticket) -> bool:
        if ticket.cancelled:
            self.metrics.questions.labels("cancelled").inc()
        return ticket.cancelled


def _do(task: Callable[[], Any], done: "Future[Any]") -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(task())
    except Exception as error:
        done.set_exception(error)


def _stand_back(settings: Serve) -> None:
    """Let this thread, and those that compute for it, give way to what takes requests and changes."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.nice and sys.platform == "linux":  # elsewhere this would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), settings.nice)
