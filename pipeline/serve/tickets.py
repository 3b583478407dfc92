"""What clients ask of the engine, and what they are told: values that both sides share."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.memory.facts import Fact

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """As many wait as may."""


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
    """Tokens of the answer at most; None for as many as the adapter was trained with, which are the most."""


@dataclass(frozen=True)
class Shared:
    """A fact that an answer is read from."""

    fact: Fact
    text: str
    weight: float
    """Probability that the answer stands in this fact."""
    via: tuple[Fact, str] | None
    """The fact that led to it with its text, for a question over two facts."""


@dataclass(frozen=True)
class Began:
    """What is known before an answer is said."""

    refused: bool
    refusal: float
    """Probability that no fact answers."""
    facts: list[Shared]
    """Heaviest first; of a refusal, those that were looked at."""
    version: int
    """Every change below this number was seen."""
    prompt_tokens: int
    fact_tokens: int
    """Tokens of the facts that the model reads; 0 for a refusal."""
    waiting: float
    """Seconds until the engine took the question."""
    finding: float
    """Seconds that it took to find the facts, together with those of others that came at the same time."""


@dataclass(frozen=True)
class Said:
    """A piece of the answer; all of them together are its text."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The end of an answer."""

    text: str
    """All of it; empty for a refusal."""
    reason: str
    """`stop`, or `length` where it has as many tokens as it may."""
    tokens: int
    first_token: float
    """Seconds from the question's arrival to the first token, or to the refusal."""
    total: float
    """Seconds from its arrival to now."""


Event = Began | Said | Ended | Exception
"""What a client is told: `Began`, pieces, `Ended`; or at any point an exception, which is the last."""


@dataclass(eq=False)
class Ticket:
    """A question on its way."""

    asked: Asked
    told: Callable[[Event], None]
    """Called with each event by the engine's thread; it must return at once."""
    arrived: float = field(default_factory=time.perf_counter)
    cancelled: bool = False

    def tell(self, event: Event) -> None:
        """Tell an event; a client that can't be told has gone."""
        try:
            self.told(event)
        except Exception:
            logger.warning("a client can't be told of its answer", exc_info=True)
            self.cancelled = True

    def cancel(self) -> None:
        """Give up the place: nothing more is told once the engine has seen it, at the next token."""
        self.cancelled = True
