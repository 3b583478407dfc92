"""A ring of the last M tokens' latents on the device; what it overwrites is spilled. Signatures only for now."""

from jaxtyping import Int
from torch import Tensor

from pipeline.longcontext.context import Held


class Ring:
    """Rows of the newest blocks, in a buffer that is written round and round.

    A block is what all layers keep of `block` tokens, of all texts of a batch: [B, ...], one opaque array.

    Args:
        slots: blocks that are held, M / block.
        spill: takes what is overwritten; None forgets it.
    """

    def append(self, blocks: Tensor) -> None:
        """Add blocks [n, B, ...] behind the newest."""
        raise NotImplementedError

    def gather(self, ids: Int[Tensor, "B k"]) -> Tensor:
        """Return blocks by their number since the first: [B, k, ...]; anything where an id is -1."""
        raise NotImplementedError

    def held(self) -> Held:
        """Return the bytes kept."""
        raise NotImplementedError
