"""The rotating cache: the newest M tokens stay on the device, in a ring; what it overwrites is spilled.

A block is what the layers keep of `block` tokens, for all texts of a batch: one array [B, ...] that only
`latents` understands. Blocks are numbered from 0 in the order of the text; block i lies in slot i mod slots.
"""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from pipeline.longcontext.context import Held
from pipeline.longcontext.spill import Spill

FIRST_SLOTS = 32
"""Slots to begin with; the buffer doubles until it has all: a short text doesn't pay for a long one's."""


class Ring:
    """The newest blocks, in a buffer that is written round and round (first in, first out).

    Args:
        slots: blocks held at most, M / block.
        spill: takes what is overwritten; None forgets it.
    """

    def __init__(self, slots: int, spill: Spill | None) -> None:
        self.slots, self.spill, self.count = slots, spill, 0
        self._buffer: Tensor | None = None

    @property
    def oldest(self) -> int:
        """Number of the oldest block that can still be had."""
        return max(0, self.count - self.slots) if self.spill is None else 0

    def append(self, blocks: Shaped[Tensor, "n B *block"]) -> None:
        """Add blocks behind the newest."""
        for piece in torch.split(blocks, self.slots):
            self._grow(piece)
            done = 0
            while done < len(piece):
                slot = self.count % self.slots
                part = piece[done : done + self.slots - slot]
                self._overwrite(slot, part)
                self.count += len(part)
                done += len(part)

    def gather(self, numbers: Int[Tensor, "B k"]) -> Shaped[Tensor, "B k *block"]:
        """Return blocks by their numbers, of each text its own; any block at all where a number is negative.

        Raises:
            IndexError: a block was not appended yet, or is forgotten.
        """
        if self._buffer is None:
            raise IndexError("no block was appended yet")
        wanted = numbers.tolist()
        spilled: list[tuple[int, int]] = []
        places: list[tuple[int, int]] = []
        for text, row in enumerate(wanted):
            for place, number in enumerate(row):
                if number >= self.count or 0 <= number < self.oldest:
                    raise IndexError(f"block {number} of {self.oldest} to {self.count - 1}")
                if 0 <= number < self.count - self.slots:
                    spilled.append((number, text))
                    places.append((text, place))
        texts = torch.arange(len(wanted), device=self._buffer.device)[:, None]
        rows: Tensor = self._buffer[numbers.to(self._buffer.device).clamp(min=0) % self.slots, texts]
        if spilled and self.spill is not None:
            at = torch.tensor(places, device=rows.device)
            rows[at[:, 0], at[:, 1]] = self.spill.get(spilled, rows.device)
        return rows

    def held(self) -> Held:
        """Return the bytes kept."""
        own = 0 if self._buffer is None else self._buffer.nbytes
        there = Held(0) if self.spill is None else self.spill.held()
        return Held(own, there.host, there.disk)

    def _grow(self, coming: Tensor) -> None:
        """Make room for blocks to come, unless the ring has its full size."""
        former = 0 if self._buffer is None else len(self._buffer)
        wanted = min(self.slots, self.count + len(coming))
        if wanted <= former:
            return
        size = min(self.slots, max(FIRST_SLOTS, 2 * former, wanted))
        buffer = coming.new_empty((size, *coming.shape[1:]))
        if self._buffer is not None:
            buffer[:former] = self._buffer
        self._buffer = buffer

    def _overwrite(self, slot: int, part: Tensor) -> None:
        """Write blocks to neighbouring slots; what was there is spilled."""
        assert self._buffer is not None
        kept = self._buffer[slot : slot + len(part)]
        if self.count >= self.slots and self.spill is not None:
            self.spill.put(kept)
        kept.copy_(part)
