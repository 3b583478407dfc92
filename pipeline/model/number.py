"""A tensor's one number, fetched from its device only after a change: to fetch is to wait for the device."""

from jaxtyping import Float
from torch import Tensor


class Number:
    """Remembers the number of the tensor that it was last asked for."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, int, float] | None = None

    def __call__(self, tensor: Float[Tensor, ""]) -> float:
        """Return the number of `tensor` as it is now."""
        if self._held is None or self._held[0] is not tensor or self._held[1] != tensor._version:
            self._held = tensor, tensor._version, float(tensor)
        return self._held[2]
