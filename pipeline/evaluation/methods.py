"""What a method is: something that answers questions, names the facts it read, and follows updates.

A method has a frozen dataclass for its values (`conf/method/<name>.yaml`) and a builder that turns those
values into an `Answerer`. A builder names what it needs by its parameters, as a stage does:

    @register(Rag)
    def rag(method: Rag, graph: Graph, encoder: Encoder, paths: Paths) -> Answerer: ...

and `build(method, graph=graph, encoder=encoder, paths=paths, lm=lm)` gives it exactly those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from math import isfinite
from typing import Any, Protocol, TypeVar

from pipeline.kg.facts import Graph


@dataclass(frozen=True)
class Answers:
    """What a method said to B questions; every list has B items, in the order of the questions.

    Raises:
        ValueError: the lists differ in length, a question has other than one weight a fact, its facts are
            not in order of weight, or a number is not finite; the text names the field and the question.
    """

    texts: list[str]
    """The answer; "" where the method refused."""
    facts: list[list[int]]
    """Ids of the facts that were read, most weight first; [] for a method that reads none."""
    weights: list[list[float]]
    """Probability of each of those facts, same lengths as `facts`."""
    candidates: list[list[int]]
    """Ids of the coarse search's candidates, best first; [] for a method without a coarse search."""
    refusal: list[float]
    """Probability (or any score that rises with it) that no fact answers the question."""
    refused: list[bool]
    """Whether the method declined to answer."""

    def __post_init__(self) -> None:
        count = len(self.texts)
        for name in ("facts", "weights", "candidates", "refusal", "refused"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"Answers.{name} has {len(getattr(self, name))} items for {count} texts")
        for question, (facts, weights) in enumerate(zip(self.facts, self.weights, strict=True)):
            if len(facts) != len(weights):
                raise ValueError(
                    f"Answers.weights[{question}] has {len(weights)} items for {len(facts)} facts"
                )
            if not all(map(isfinite, [*weights, self.refusal[question]])):
                raise ValueError(f"Answers.weights or refusal of question {question} is not finite")
            if any(lighter > heavier for heavier, lighter in pairwise(weights)):
                raise ValueError(f"Answers.facts[{question}] must stand in order of weight, not {weights}")

    def __len__(self) -> int:
        return len(self.texts)


class Answerer(Protocol):
    """A method, ready to be asked."""

    name: str
    """What tables and plots call it."""

    def answer(self, questions: Sequence[str]) -> Answers:
        """Return the answers to one batch of questions."""
        ...

    def update(self, graph: Graph, snapshot: int) -> None:
        """Follow `graph` from its base to `snapshot` by applying its changes, without any training."""
        ...


Builder = TypeVar("Builder", bound=Callable[..., Answerer])

_builders: dict[type, Callable[..., Answerer]] = {}


def register(kind: type) -> Callable[[Builder], Builder]:
    """Make the decorated function the builder of methods whose values are a `kind`."""

    def remember(builder: Builder) -> Builder:
        _builders[kind] = builder
        return builder

    return remember


def build(method: object, **given: Any) -> Answerer:
    """Return the answerer of `method`, passing its builder those of `given` that it names.

    Raises:
        LookupError: no builder is registered for this kind of method.
        TypeError: the builder needs something that is not among `given`; the text names it.
    """
    if type(method) not in _builders:
        known = ", ".join(sorted(kind.__name__ for kind in _builders))
        raise LookupError(f"no method is registered for {type(method).__name__}; there is {known}")
    builder = _builders[type(method)]
    given["method"] = method
    needed = signature(builder).parameters
    missing = sorted(name for name in needed if name not in given)
    if missing:
        raise TypeError(f"the method {type(method).__name__} needs {missing[0]!r}, which was not given")
    return builder(**{name: given[name] for name in needed})
