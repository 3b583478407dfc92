"""What a recorded function is given: written by the host, copied to the device in one piece."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Inbox:
    """A tensor with a place for the host to write to.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        device: where it is read.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        away = device.type == "cuda"
        self._host = torch.zeros(shape, dtype=dtype, pin_memory=away)
        self.tensor: Tensor = self._host.to(device) if away else self._host
        """On the device; always the same one."""
        self._sent: Any = torch.cuda.Event() if away else None  # type: ignore[no-untyped-call]

    def opened(self) -> NDArray[np.generic]:
        """Return what the host writes to, once what it held before has been copied."""
        if self._sent is not None:
            self._sent.synchronize()
        array: NDArray[np.generic] = self._host.numpy()
        return array

    def send(self) -> None:
        """Copy it to the device, in turn with what else is done there."""
        if self._sent is not None:
            self.tensor.copy_(self._host, non_blocking=True)
            self._sent.record()
