"""Keys and values that grow by what is appended, without being copied at each step."""

import torch
from jaxtyping import Float
from torch import Tensor


class Growing:
    """Keys and values of one layer in buffers with room for more.

    Args:
        room: tokens that the buffers are made for; where more come they grow by a quarter.
        pinned: whether the buffers lie in page-locked host memory instead of beside what is appended.
    """

    def __init__(self, room: int = 0, *, pinned: bool = False) -> None:
        self.room, self.pinned, self.length = room, pinned, 0
        self._parts: list[Tensor] = []

    def append(self, *new: Float[Tensor, "B G T D"]) -> None:
        """Add tokens at the end: their keys and values, or whatever parts the first call had."""
        end = self.length + new[0].shape[2]
        if not self._parts or end > self._parts[0].shape[2]:
            self._grow(new, end)
        for part, more in zip(self._parts, new, strict=True):
            part[:, :, self.length : end] = more
        self.length = end

    def _grow(self, like: tuple[Tensor, ...], needed: int) -> None:
        former = self._parts[0].shape[2] if self._parts else 0
        room = max(needed, former * 5 // 4 if former else self.room)
        for place, new in enumerate(like):
            shape = (*new.shape[:2], room, new.shape[3])
            device = torch.device("cpu") if self.pinned else new.device
            lock = self.pinned and new.is_cuda
            part = torch.empty(shape, dtype=new.dtype, device=device, pin_memory=lock)
            if former:
                part[:, :, : self.length] = self._parts[place][:, :, : self.length]
                self._parts[place] = part  # frees the former before the next is made
            else:
                self._parts.append(part)

    @property
    def keys(self) -> Float[Tensor, "B G S D"]:
        """What was appended so far, a view."""
        return self._parts[0][:, :, : self.length]

    @property
    def values(self) -> Float[Tensor, "B G S D"]:
        """What was appended so far, a view."""
        return self._parts[1][:, :, : self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, room included."""
        return sum(part.nbytes for part in self._parts)


def blocks(part: Float[Tensor, "B G S D"], size: int) -> Float[Tensor, "B G N {size} D"]:
    """Return tokens in blocks of `size`, a view; their number must be a multiple of it."""
    return part.view(*part.shape[:2], -1, size, part.shape[3])
