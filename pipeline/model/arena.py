"""Keys and values of facts in one tensor, from which a batch gathers those that it reads."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import UserError
from pipeline.model.factreader import FactReader
from pipeline.model.inbox import Inbox
from pipeline.model.places import head_sizes


class Read(NamedTuple):
    """Tokens of facts that a batch of questions reads, one row a question, without padding."""

    places: list[NDArray[np.int64]]
    """Where their keys and values stand in the arena."""
    shifts: list[NDArray[np.float32]]
    """Log-probability of each token's fact."""

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.places), default=0)


class Front:
    """Places in front of prompts for the tokens of facts: where their keys and values stand, and shifts.

    A question's tokens take the last places of its row: those next to its prompt.

    Args:
        questions: B of every batch.
        width: J, places of a row.
        hidden: the shift of a place that isn't taken.
        device: where they are read.
    """

    def __init__(self, questions: int, width: int, hidden: float, device: torch.device) -> None:
        self.width, self.hidden = width, hidden
        shape = questions, width
        self._places, self._shifts = Inbox(shape, torch.long, device), Inbox(shape, torch.float32, device)

    @property
    def places(self) -> Int[Tensor, "B J"]:
        """Where keys and values stand in an arena; 0 where a place isn't taken."""
        return self._places.tensor

    @property
    def shifts(self) -> Float[Tensor, "B J"]:
        """What is added to the logits, in nats."""
        return self._shifts.tensor

    def take(self, facts: Read | None) -> None:
        """Take facts, no row of them longer than there are places."""
        places, shifts = self._places.opened(), self._shifts.opened()
        places.fill(0)
        shifts.fill(self.hidden)
        if facts is not None:
            for row, (at, row_shifts) in enumerate(zip(*facts, strict=True)):
                places[row, self.width - len(at) :] = at
                shifts[row, self.width - len(at) :] = row_shifts
        self._places.send()
        self._shifts.send()


class FactArena:
    """A cache of facts' keys and values whose tensor never moves.

    Place 0 belongs to no fact. The facts that were read least recently leave first.

    Args:
        facts: computes them.
        capacity: tokens that it holds.
    """

    def __init__(self, facts: FactReader, capacity: int) -> None:
        self._facts = facts
        reader = facts.reader
        groups, size = head_sizes(reader.lm.config)
        layers = reader.layers - facts.first_layer
        self.states: Float[Tensor, "layers 2 G places D"] = torch.zeros(
            layers, 2, groups, capacity + 1, size, dtype=reader.lm.dtype, device=reader.device
        )
        self._places: OrderedDict[str, NDArray[np.int64]] = OrderedDict()
        self._free = list(range(capacity, 0, -1))

    def read(self, texts: Sequence[Sequence[str]], shifts: Sequence[Sequence[float]]) -> Read:
        """Return where the facts of each question stand, computing those that aren't here.

        Args:
            texts: the facts of each question.
            shifts: log-probability of each of them, or of more.

        Raises:
            UserError: the facts of one batch have more tokens than it holds.
        """
        self._fetch(dict.fromkeys(text for row in texts for text in row))
        places = [[self._places[text] for text in row] for row in texts]
        none = np.empty(0, np.int64)
        return Read(
            [np.concatenate([none, *row]) for row in places],
            [
                np.repeat(np.array(row_shifts[: len(row)], np.float32), list(map(len, row)))
                for row, row_shifts in zip(places, shifts, strict=True)
            ],
        )

    def places(self, text: str) -> NDArray[np.int64]:
        """Return where the tokens of a fact stand that was read; the same array as long as they do."""
        return self._places[text]

    def clear(self) -> None:
        """Forget every fact."""
        for places in self._places.values():
            self._free.extend(places.tolist())
        self._places.clear()

    def _fetch(self, wanted: dict[str, None]) -> None:
        missing = []
        for text in wanted:
            if text in self._places:
                self._places.move_to_end(text)
            else:
                missing.append(text)
        if not missing:
            return
        states = self._facts.prefill(missing)
        lengths = [state.shape[3] for state in states]
        self._make_room(sum(lengths), wanted)
        for text, length in zip(missing, lengths, strict=True):
            self._places[text] = np.array([self._free.pop() for _ in range(length)])
        places = np.concatenate([self._places[text] for text in missing])
        at = torch.from_numpy(places).to(self.states.device)
        self.states.index_copy_(3, at, torch.cat(states, dim=3).transpose(0, 1))

    def _make_room(self, tokens: int, kept: dict[str, None]) -> None:
        for text in list(self._places):
            if len(self._free) >= tokens:
                return
            if text not in kept:
                self._free.extend(self._places.pop(text).tolist())
        if len(self._free) < tokens:
            raise UserError(
                f"method.fact_cache holds {self.states.shape[3] - 1} tokens, fewer than the facts that "
                "questions at once read; raise it"
            )
