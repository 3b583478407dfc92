"""One short vector a block, of every block that can still be retrieved, and the scores of all of them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.longcontext.quantised import packed, unpacked

FIRST_ROWS = 64
"""Blocks that there is room for at first; the buffer doubles."""


class Summaries:
    """Summaries by number of the block.

    Tokens of a block that is not complete yet wait as states.

    Args:
        block: tokens of a block.
        pool: returns the summaries of complete blocks from the states of their tokens.
        precision: int8 or float16.
    """

    def __init__(
        self,
        block: int,
        pool: Callable[[Float[Tensor, "B N block C"]], Float[Tensor, "B N S"]],
        precision: str,
    ) -> None:
        self._block, self._pool, self._precision = block, pool, precision
        self.first = self.count = 0
        self._numbers = 0
        self._rows: Tensor | None = None
        self._waiting: Tensor | None = None

    def add(self, states: Float[Tensor, "B T C"], oldest: int) -> None:
        """Take the states of the tokens that follow; forget blocks below number `oldest`."""
        if self._waiting is not None:
            states = torch.cat([self._waiting, states], dim=1)
        done = states.shape[1] // self._block
        waiting = states[:, done * self._block :]
        self._waiting = waiting.clone() if waiting.shape[1] else None
        if not done:
            return
        complete = states[:, : done * self._block].reshape(len(states), done, self._block, -1)
        fresh = self._pool(complete)
        self._numbers = fresh.shape[2]
        rows = packed(fresh) if self._precision == "int8" else fresh.half()
        into = self._room(rows, oldest)
        into[:, self.count - self.first : self.count - self.first + done] = rows
        self.count += done

    def of(self, start: int, stop: int) -> Float[Tensor, "B N S"]:
        """Return the summaries of blocks `start` to `stop` - 1."""
        assert self._rows is not None
        rows = self._rows[:, start - self.first : stop - self.first]
        return unpacked(rows, self._numbers) if self._precision == "int8" else rows

    @property
    def nbytes(self) -> int:
        """Bytes kept, of states that wait too."""
        return sum(part.nbytes for part in (self._rows, self._waiting) if part is not None)

    def _room(self, rows: Float[Tensor, "B N S"], oldest: int) -> Tensor:
        """Return the buffer, with room for `rows` behind what it holds."""
        former = self._rows
        held = self.count - self.first
        if former is not None and held + rows.shape[1] <= former.shape[1]:
            return former
        dropped = min(max(0, oldest - self.first), held)
        kept = held - dropped
        size = max(FIRST_ROWS, 0 if former is None else former.shape[1])
        while size < 2 * (kept + rows.shape[1]):
            size *= 2
        fresh = rows.new_empty((rows.shape[0], size, rows.shape[2]))
        if former is not None:
            fresh[:, :kept] = former[:, dropped:held]
        self.first += dropped
        self._rows = fresh
        return fresh
