"""What the server counts and times, in the form that Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

PREFIX = "living_memory"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that `told` returns."""


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        count, time = self._count, self._time
        self.questions = count("questions", "Questions that were taken, by how they ended.", ["end"])
        self.tokens = count("answer_tokens", "Tokens of answers.")
        self.turned_away = count("turned_away", "Questions that were turned away, by why.", ["why"])
        self.waited = time("waiting_seconds", "From a question's arrival until the engine took it.")
        self.found = time("finding_seconds", "Finding the facts of the questions that came together.")
        self.first_token = time("first_token_seconds", "From a question's arrival to its first token.")
        self.answered = time("answer_seconds", "From a question's arrival to the end of its answer.")
        self.stepped = time("step_seconds", "One token of every answer that is being said.")
        self.batch = Histogram(
            f"{PREFIX}_batch_size", "Answers said side by side.", buckets=SIZES, registry=self._registry
        )
        self.requests = count("requests", "Requests of HTTP.", ["method", "route", "status"])
        self.took = time("request_seconds", "From a request to the end of its response.", ["method", "route"])

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Tell a value as it is whenever it is asked for."""
        Gauge(f"{PREFIX}_{name}", text, registry=self._registry).set_function(value)

    def told(self) -> bytes:
        """Return everything as text."""
        return generate_latest(self._registry)

    def _count(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels or [], registry=self._registry)

    def _time(self, name: str, text: str, labels: list[str] | None = None) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels or [], buckets=SECONDS, registry=self._registry)
