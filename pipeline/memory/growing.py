"""A tensor that rows are appended to."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Growing:
    """Rows, with room for more behind them; what was taken of them stays as it is.

    Args:
        rows: the first ones; they are copied once others come.
    """

    def __init__(self, rows: Tensor) -> None:
        self._count = len(rows)
        self._hold(rows)

    def _hold(self, rows: Tensor) -> None:
        self._held = rows
        # Few rows are written and read through an array in a fraction of the time that a tensor takes.
        self._array: NDArray[Any] | None = rows.numpy() if rows.device.type == "cpu" else None

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor | NDArray[Any]) -> None:
        """Add `rows` behind those before."""
        end = self._count + len(rows)
        if end > len(self._held if self._array is None else self._array):
            wider = self._held.new_empty(max(end, 2 * self._count), *self._held.shape[1:])
            wider[: self._count] = self.rows
            self._hold(wider)
        if self._array is None:
            self._held[self._count : end] = torch.as_tensor(rows)
        else:
            self._array[self._count : end] = rows if isinstance(rows, np.ndarray) else rows.numpy()
        self._count = end

    @property
    def rows(self) -> Tensor:
        """All of them."""
        return self._held[: self._count]

    @property
    def array(self) -> NDArray[Any]:
        """All of them, where they are in main memory."""
        assert self._array is not None
        return self._array[: self._count]
