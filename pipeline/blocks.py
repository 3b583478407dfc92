"""What maps a pure function over blocks, in order; `pipeline.mapping` has other ways than in turn."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Block = TypeVar("Block")
Result = TypeVar("Result")


class Mapped(Protocol):
    """Maps a function over blocks."""

    def __call__(self, run: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
        """Yield `run(block)` for each block, in order."""
        ...


def in_turn(run: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """Yield `run(block)` for each block, each computed when it is asked for."""
    return map(run, blocks)
