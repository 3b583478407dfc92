"""Functions over tensors that stay in their places: compiled, and on a GPU recorded and replayed at once.

A replay of a CUDA graph costs one launch however many kernels there are, and for small models launches are
most of the time. What a recorded function reads and writes must be the same tensors each time.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

Backend = str | Callable[..., Any]
"""What torch compiles with, by its name or as a function of a graph and examples of its inputs."""
WARM_UP = 2
"""Runs before a recording: the first one compiles, and libraries set themselves up."""


def compiled(method: Callable[..., Any], backend: Backend, name: str) -> Callable[..., Any]:
    """Return a bound `method`, compiled for the shapes of its first call, with code of its own.

    Torch keeps what it compiled with a function's code, eight times at most: were that shared, objects would
    use it up for each other. Shapes, places and attention are those of the first call for good, so nothing
    is checked at a call, and nothing that changes elsewhere compiles it anew.

    Args:
        method: of an object that lives as long as what is returned.
        backend: what compiles it; "" returns it as it is.
        name: what profiles call it.
    """
    if not backend:
        return method
    plain: Any = method
    code = plain.__func__.__code__.replace(co_name=name)
    own = FunctionType(code, plain.__func__.__globals__).__get__(plain.__self__)
    made: Callable[..., Any] = torch.compile(
        own,
        backend=backend,
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": lambda guards: [False] * len(guards)},
    )
    return made


class Recorded:
    """A function without arguments, on a GPU recorded at its first call and replayed from then on.

    Args:
        compute: reads and writes tensors that stay in their places; its launches don't depend on numbers.
        device: where it computes.
        state: tensors that it changes and reads again, which the runs before the recording must not move.
        record: whether to record at all; on a CPU nothing is.
    """

    def __init__(
        self,
        compute: Callable[[], None],
        device: torch.device,
        state: Sequence[Tensor] = (),
        record: bool = True,
    ) -> None:
        self._compute = compute
        self._device = device
        self._state = state
        self._records = record and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def __call__(self) -> None:
        """Compute it."""
        if not self._records:
            self._compute()
            return
        if self._graph is None:
            self._graph = self._recorded()
        self._graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        kept = [part.clone() for part in self._state]
        aside: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._compute()
                for part, former in zip(self._state, kept, strict=True):
                    part.copy_(former)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # What multiplies matrices gets room of its own in each recording, or two at once would share it.
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(graph):
            self._compute()
        torch._C._cuda_clearCublasWorkspaces()
        return graph
