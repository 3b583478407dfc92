"""Times what is done on a device, which is waited for before and after."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Milliseconds of what is done, by name.

    Args:
        device: where it is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.took: dict[str, list[float]] = {}

    @contextmanager
    def timing(self, name: str, parts: int = 1) -> Iterator[None]:
        """Take the time of the block, divided by `parts`."""
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        self.add(name, (time.perf_counter() - began) * 1000 / parts)

    def add(self, name: str, milliseconds: float) -> None:
        """Take a time."""
        self.took.setdefault(name, []).append(milliseconds)

    def wait(self) -> None:
        """Wait until the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
