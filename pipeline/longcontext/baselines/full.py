"""FullKV as it is served: keys are rotated once, when they come, and lie in a buffer with room for more."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.longcontext.baselines.buffers import Growing
from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.running import Rotation


class RotatedKV(Context):
    """Everything is kept and seen at its true position, beyond the trained window too.

    It computes what `FullKV` computes, without rotating or copying the past at each token.

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        room: tokens that a text and its answer will have; 0 where that is not known.
    """

    def __init__(self, layers: int, rotary: nn.Module, room: int = 0) -> None:
        self.rotation, self.room = Rotation(rotary), room
        self.buffers = [Growing(room) for _ in range(layers)]
        self._places: tuple[int, Tensor] | None = None

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        buffer = self.buffers[layer]
        positions = self.places(buffer.length, keys)
        buffer.append(self.rotation.turned(keys, positions), values)
        return Seen(buffer.keys, buffer.values, positions)

    def places(self, start: int, keys: Float[Tensor, "B G T D"]) -> Int[Tensor, " T"]:
        """Return the positions of tokens that follow `start` others: one array for all layers of a step."""
        width = keys.shape[2]
        if self._places is None or self._places[0] != start or len(self._places[1]) != width:
            self._places = start, torch.arange(start, start + width, device=keys.device)
        return self._places[1]

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(sum(buffer.nbytes for buffer in self.buffers))
