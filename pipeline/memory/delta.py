"""What changed since a memory's facts were laid out to be searched, readable while it grows.

Each change has a number. A search goes by the number of the last change before it began: entries are only
ever added, so that it sees every change whole or not at all, and no lock holds it up.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pipeline.memory.offsets import Rows
from pipeline.memory.triples import MANY, Triples


class Counts(Protocol):
    """Says how many facts entities head."""

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts each of `heads` has."""
        ...

    def count(self, head: int) -> int:
        """Return how many facts `head` has."""
        ...


class Late(NamedTuple):
    """Facts that were not laid out, one a question that looks at its head."""

    questions: Rows
    places: Rows
    """Which of the question's heads they are of."""
    facts: Rows
    relations: Rows


class Delta:
    """Facts that came, went and came back.

    Args:
        facts: the table that rows are of.
        laid_out: says how many facts entities headed when they were laid out.
    """

    def __init__(self, facts: Triples, laid_out: Counts) -> None:
        self.last = 0
        """Number of the last change."""
        self._facts = facts
        self._counts = laid_out
        self._stood: dict[int, int] = {}  # facts that a head with turns had when they were laid out
        # Numbers of the changes at which a fact came or went, in turn; most facts do so once.
        self._turns: dict[int, int | list[int]] = {}
        self._late: set[int] = set()  # facts with turns that were not laid out
        self._of: dict[int, list[int]] = {}  # facts with turns, by head
        self._log: list[list[int]] = []  # facts that each change concerned
        self._number: dict[int, int] = {}  # of the last change that concerned a head
        self._count: dict[int, int] = {}  # facts that such a head has now
        self._alone: dict[int, None] = {}  # heads of which no fact was laid out and that have one now
        self._empty: dict[int, None] = {}  # heads that had some and have none now
        self._parts: dict[int, tuple[int, list[int], list[int]]] = {}  # what `of` found last

    def __len__(self) -> int:
        return len(self._turns)

    def turn(self, went: Sequence[int], came: Sequence[int]) -> None:
        """Take in a change: rows of facts that held and went, then of facts that didn't hold and came."""
        number = self.last + 1
        rows = [*went, *came]
        heads = self._facts.heads(rows)
        self._look_up([head for head in dict.fromkeys(heads) if head not in self._stood])
        for place, (row, head) in enumerate(zip(rows, heads, strict=True)):
            came_now = place >= len(went)
            turns = self._turns.get(row)
            if turns is None:
                if came_now:
                    self._late.add(row)
                self._turns[row] = number
                self._of.setdefault(head, []).append(row)
            elif isinstance(turns, int):
                self._turns[row] = [turns, number]
            else:
                turns.append(number)
            self._count[head] += 1 if came_now else -1
        for head in dict.fromkeys(heads):
            self._number[head] = number
            stood, holds = self._stood[head] > 0, self._count[head] > 0
            if holds and not stood:
                self._alone[head] = None
            else:
                self._alone.pop(head, None)
            if stood and not holds:
                self._empty[head] = None
            else:
                self._empty.pop(head, None)
        self._log.append(rows)
        self.last = number

    def _look_up(self, heads: Sequence[int]) -> None:
        """Note how many facts `heads`, without turns so far, had when they were laid out."""
        if len(heads) > MANY:
            found = self._counts.counts(np.array(heads, dtype=np.int64)).tolist()
        else:
            found = [self._counts.count(head) for head in heads]
        stood = dict(zip(heads, found, strict=True))
        self._stood.update(stood)
        self._count.update(stood)

    def _laid_out(self, head: int) -> int:
        return self._stood[head] if head in self._stood else self._counts.count(head)

    def holds(self, row: int, at: int) -> bool | None:
        """Return whether a fact held after change `at`, None where none concerned it."""
        turns = self._turns.get(row)
        if turns is None:
            return None
        turned = turns <= at if isinstance(turns, int) else bisect_right(turns, at) % 2 == 1
        return turned == (row in self._late)

    def turned(self, after: int, at: int) -> dict[int, bool]:
        """Return the facts that changes behind `after`, up to `at`, concerned, and whether they held then."""
        rows = dict.fromkeys(row for change in self._log[after:at] for row in change)
        return {row: bool(self.holds(row, at)) for row in rows}

    def laid_out(self, row: int) -> bool:
        """Return whether a fact was laid out that some change concerned."""
        return row not in self._late

    def since(self) -> tuple[list[int], list[int]]:
        """Return the facts that were laid out and hold no longer, and those that were not and hold now."""
        went = [row for row in self._turns if row not in self._late and not self.holds(row, self.last)]
        return went, [row for row in self._late if self.holds(row, self.last)]

    def count(self, head: int, at: int) -> int:
        """Return how many facts of `head` held after change `at`."""
        if at >= self._number.get(head, 0):
            return self._count[head] if head in self._count else self._laid_out(head)
        went, came = self.of(head, at)
        return self._laid_out(head) - len(went) + len(came)

    def of(self, head: int, at: int) -> tuple[list[int], list[int]]:
        """Return the facts of `head` that went and those that came, by change `at`; both ascend.

        Those that went were laid out and held no longer; those that came were not, and held.
        """
        number = self._number.get(head, 0)
        known = self._parts.get(head)
        if known is not None and known[0] == number <= at:
            return known[1:]
        rows = sorted(self._of.get(head, ()))
        went = [row for row in rows if row not in self._late and not self.holds(row, at)]
        came = [row for row in rows if row in self._late and self.holds(row, at)]
        if number and number <= at:
            self._parts[head] = number, went, came
        return went, came

    def empty(self, at: int) -> list[int]:
        """Return the heads whose facts were laid out and that had none after change `at`."""
        if at == self.last:
            return list(self._empty)
        return [head for head in list(self._of) if self._laid_out(head) and not self.count(head, at)]

    def alone(self, at: int) -> list[int]:
        """Return the heads of which no fact was laid out and that had one after change `at`."""
        if at == self.last:
            return list(self._alone)
        return [head for head in list(self._of) if not self._laid_out(head) and self.count(head, at)]

    def gone(self, heads: Iterable[int], at: int) -> Rows:
        """Return the facts of `heads` that were laid out and no longer held, ascending."""
        return np.array(sorted(row for head in heads for row in self.of(head, at)[0]), dtype=np.int64)

    def known(self, heads: Int[Tensor, "B n"]) -> list[int]:
        """Return which of `heads` a change concerned."""
        of = self._of
        return [head for head in dict.fromkeys(heads.reshape(-1).tolist()) if head in of] if of else []

    def late(self, heads: Int[Tensor, "B n"], changed: Iterable[int], at: int) -> Late:
        """Return the facts of `heads` that were not laid out and held after change `at`.

        Args:
            heads: of each question, each once.
            changed: those of them that a change concerned.
            at: number of a change.
        """
        of = {head: rows for head in changed if (rows := self.of(head, at)[1])}
        found = [
            (question, place, row)
            for question, asked in enumerate(heads.tolist() if of else ())
            for place, head in enumerate(asked)
            if head in of
            for row in of[head]
        ]
        questions, places, facts = np.array(found, dtype=np.int64).reshape(-1, 3).T
        return Late(questions, places, facts, self._facts.at(facts)[:, 1] if found else facts)
