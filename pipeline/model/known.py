"""What an arena holds, told in tensors: so that a device finds what to read without asking the host."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

Slot = tuple[int, int]
"""Rows of a head and a relation."""


class Known:
    """Facts by their ids: where their tokens stood in an arena when they were last read.

    Only the facts that it has learned are known, and what has left the arena since isn't told to it: who goes
    by it has the host look after.

    Args:
        facts: ids that there may be.
        most: facts that it keeps; of one more, it forgets all before.
        window: tokens of the longest fact.
        device: where they are looked up.
    """

    def __init__(self, facts: int, most: int, window: int, device: torch.device) -> None:
        self.entry: Int[Tensor, " facts"] = torch.zeros(facts, dtype=torch.int32, device=device)
        """The entry of a fact; 0, which has no tokens, for all others."""
        self.order: Int[Tensor, " facts"] = torch.zeros_like(self.entry)
        """Where its text stands among those known of its slot; equal texts stand together."""
        self.places: Int[Tensor, "entries window"] = torch.zeros(
            most + 1, window, dtype=torch.long, device=device
        )
        """Where an entry's tokens stand in the arena."""
        self.lengths: Int[Tensor, " entries"] = torch.zeros(most + 1, dtype=torch.long, device=device)
        """How many they are."""
        self._entries: dict[int, int] = {}
        self._held: dict[int, NDArray[np.int64]] = {}
        self._texts: dict[int, str] = {}
        self._slots: dict[Slot, set[int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def agrees(self, places: Mapping[int, NDArray[np.int64]]) -> bool:
        """Return whether the tokens of facts stand where the device was told: in the very same places."""
        return all(self._held.get(fact) is at for fact, at in places.items())

    def learn(
        self, places: Mapping[int, NDArray[np.int64]], slots: Mapping[int, Slot], texts: Mapping[int, str]
    ) -> None:
        """Take in facts by their ids.

        Args:
            places: in the arena, of the tokens of each fact that was read.
            slots: of each fact that might have been.
            texts: likewise.
        """
        most, window = len(self.places) - 1, self.places.shape[1]
        if max(len(self._entries.keys() | places.keys()), len(self._texts.keys() | texts.keys())) > most:
            self.clear()
        if max(len(places), len(texts)) > most:
            return
        held = np.zeros((len(places), window), np.int64)
        for row, (fact, at) in enumerate(places.items()):
            self._entries.setdefault(fact, len(self._entries) + 1)
            self._held[fact] = at
            held[row, : len(at)] = at
        entries = [self._entries[fact] for fact in places]
        self._write(self.places, entries, held)
        self._write(self.lengths, entries, list(map(len, places.values())))
        self._write(self.entry, list(places), entries)
        self._texts.update(texts)
        order: dict[int, int] = {}
        for fact, slot in slots.items():
            self._slots.setdefault(slot, set()).add(fact)
        for slot in set(slots.values()):
            among = sorted({self._texts[fact] for fact in self._slots[slot]})
            rank = {text: place for place, text in enumerate(among)}
            order |= {fact: rank[self._texts[fact]] for fact in self._slots[slot]}
        self._write(self.order, list(order), list(order.values()))

    def clear(self) -> None:
        """Forget every fact."""
        self.entry.zero_()
        self._entries.clear()
        self._held.clear()
        self._texts.clear()
        self._slots.clear()

    @staticmethod
    def _write(table: Tensor, rows: Sequence[int], values: object) -> None:
        at = torch.tensor(rows, dtype=torch.long, device=table.device)
        table[at] = torch.as_tensor(values, dtype=table.dtype, device=table.device)
