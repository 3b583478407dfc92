"""Finds the facts that the model would read for a text."""

from concurrent.futures import TimeoutError as LateError

from pipeline.memory.store import KnowledgeMemory
from pipeline.serve.refusals import Refusal
from pipeline.serve.service import Service
from pipeline.serve.tickets import BusyError, ClosedError

PATIENCE = 60.0
"""Seconds after which a search that the model doesn't come to is given up."""


def found(service: Service, memory: KnowledgeMemory, text: str, n: int) -> list[tuple[int, float]]:
    """Return the n facts that fit a text best with their scores in nats, best first.

    The thread that owns the model does it, between two steps of its answers.

    Args:
        service: whose model is asked.
        memory: to be searched, the service's or a view of it.
        text: what to look for.
        n: facts at most; there are no more than the search's own N.

    Raises:
        Refusal: too much waits, or the server is ending.
    """
    system = service.session.system

    def search() -> list[tuple[int, float]]:
        held, system.memory = system.memory, memory
        try:
            return service.session.search(text, n)
        finally:
            system.memory = held

    later = {"Retry-After": str(service.settings.retry_after)}
    try:
        return list(service.engine.run(search).result(PATIENCE))
    except BusyError:
        raise Refusal(429, "too many searches wait", code="too_many", headers=later) from None
    except (ClosedError, LateError):
        raise Refusal(503, "the server can't search now", code="unavailable", headers=later) from None
