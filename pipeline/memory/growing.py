"""A tensor that rows are appended to."""

from torch import Tensor


class Growing:
    """Rows, with room for more behind them; what was taken of them stays as it is.

    Args:
        rows: the first ones; they are copied once others come.
    """

    def __init__(self, rows: Tensor) -> None:
        self._held = rows
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Add `rows` behind those before."""
        end = self._count + len(rows)
        if end > len(self._held):
            wider = self._held.new_empty(max(end, 2 * self._count), *self._held.shape[1:])
            wider[: self._count] = self.rows
            self._held = wider
        self._held[self._count : end] = rows
        self._count = end

    @property
    def rows(self) -> Tensor:
        """All of them."""
        return self._held[: self._count]
