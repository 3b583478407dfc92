"""What the engine tells of a question, gathered."""

from collections.abc import Callable
from threading import Event
from typing import Any

from pipeline.serve.session import Answer, Used
from pipeline.serve.tickets import Asked, Began, Ended, Said, Ticket


class Heard:
    """Events of one question, in the order in which they came."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.done = Event()

    def __call__(self, event: Any) -> None:
        assert not self.done.is_set(), "nothing is told after the end"
        self.events.append(event)
        if isinstance(event, Ended | Exception):
            self.done.set()

    @property
    def error(self) -> Exception | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Exception) else None

    @property
    def began(self) -> Began:
        assert isinstance(self.events[0], Began)
        return self.events[0]

    @property
    def ended(self) -> Ended:
        last = self.events[-1]
        assert isinstance(last, Ended), last
        return last

    def wait(self) -> "Heard":
        assert self.done.wait(60), self.events
        return self

    def answer(self, question: str) -> Answer:
        """Return it as `Session.ask` does, after a check that the pieces make the text."""
        began, *pieces, ended = self.events
        assert isinstance(began, Began)
        assert isinstance(ended, Ended)
        assert all(isinstance(piece, Said) and piece.text for piece in pieces)
        assert "".join(piece.text for piece in pieces) == ended.text
        used = [
            Used(one.fact.key, one.text, one.weight, one.via[1] if one.via else "") for one in began.facts
        ]
        return Answer(question, ended.text, began.refused, began.refusal, used, 0.0)


def asked(question: str, told: Callable[[Any], None], **more: Any) -> Ticket:
    return Ticket(Asked(question, **more), told)


def same(found: Answer, right: Answer) -> None:
    """Check that two answers are the same, but for the last digits of weights."""
    assert (found.question, found.text, found.refused) == (right.question, right.text, right.refused)
    assert abs(found.refusal - right.refusal) < 1e-4
    assert [(u.key, u.text, u.via) for u in found.facts] == [(u.key, u.text, u.via) for u in right.facts]
    for one, other in zip(found.facts, right.facts, strict=True):
        assert abs(one.weight - other.weight) < 1e-4
