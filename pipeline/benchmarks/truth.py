"""What the clients of a server have told it, and hence what its answers may be read from."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

Slot = tuple[str, str]
"""Head and relation of a fact, by key."""


@dataclass
class Update:
    """A value that a slot was given."""

    tail: str
    sent: float
    """When, in seconds of `time.perf_counter`."""
    acknowledged: float = float("inf")
    """When the server said that it is kept; infinite where it never did."""


@dataclass(frozen=True)
class Changing:
    """A slot with one value, which is changed to others of its relation."""

    key: Slot
    head: str
    """Label of the head."""
    relation: str
    """Label of the relation."""
    tails: tuple[str, ...]
    """Keys of the values that it may be given; at least two."""

    @property
    def question(self) -> str:
        """What asks for its value."""
        return f"What is the {self.relation} of {self.head}?"


@dataclass
class Truth:
    """The values of slots over time. Of a slot, one client at a time makes changes."""

    changing: list[Changing]
    labels: dict[str, str]
    """Labels of tails by key."""
    _told: dict[Slot, list[Update]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, facts: Sequence[dict[str, Any]]) -> "Truth":
        """Return the truth of facts as the server lists them.

        Slots that hold several facts are left alone, and so are relations with fewer than three values.
        """
        slots: defaultdict[Slot, list[dict[str, Any]]] = defaultdict(list)
        tails: defaultdict[str, set[str]] = defaultdict(set)
        for fact in facts:
            slots[fact["head"]["key"], fact["relation"]["key"]].append(fact)
            tails[fact["relation"]["key"]].add(fact["tail"]["key"])
        truth = cls([], {fact["tail"]["key"]: fact["tail"]["label"] for fact in facts})
        for slot, (first, *more) in sorted(slots.items()):
            if not more and len(tails[slot[1]]) > 2:
                labels = first["head"]["label"], first["relation"]["label"]
                truth.changing.append(Changing(slot, *labels, tuple(sorted(tails[slot[1]]))))
                truth._told[slot] = [Update(first["tail"]["key"], 0.0, 0.0)]
        return truth

    def begin(self, slot: Slot, tail: str) -> Update:
        """Note that a value is about to be sent."""
        update = Update(tail, time.perf_counter())
        with self._lock:
            self._told[slot].append(update)
        return update

    def value(self, slot: Slot) -> str:
        """Return the value that was sent last."""
        with self._lock:
            return self._told[slot][-1].tail

    def allowed(self, slot: Slot, sent: float, answered: float) -> set[str]:
        """Return the values that a question may see that was on its way between two times.

        That is the last one that was acknowledged before, and those that were sent since then.
        """
        with self._lock:
            told = list(self._told.get(slot, ()))
        before = [place for place, update in enumerate(told) if update.acknowledged <= sent]
        since = told[before[-1] if before else 0 :]
        return {update.tail for update in since if update.sent <= answered}

    def superseded(self, slot: Slot, sent: float, answered: float) -> set[str]:
        """Return the values that such a question may not see."""
        with self._lock:
            told = {update.tail for update in self._told.get(slot, ())}
        return told - self.allowed(slot, sent, answered)

    def lost(self, held: dict[Slot, set[str]]) -> list[str]:
        """Return the slots that hold anything but their last acknowledged value, or one sent after it.

        What was sent and never acknowledged, because the server was killed, may be there or not; from then
        on, what is held counts.
        """
        wrong = []
        for slot, found in held.items():
            allowed = self.allowed(slot, time.perf_counter(), time.perf_counter())
            if len(found) != 1 or not found <= allowed:
                wrong.append(f"{' | '.join(slot)}: {sorted(found)} instead of {sorted(allowed)}")
            else:
                self._told[slot].append(Update(next(iter(found)), 0.0, 0.0))
        return wrong

    @property
    def acknowledged(self) -> int:
        """How many updates were."""
        with self._lock:
            return sum(0 < u.acknowledged < float("inf") for told in self._told.values() for u in told)
