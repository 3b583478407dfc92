"""Exact tokens: the text's beginning, the newest tokens, and room in front for blocks that were retrieved.

Of each layer, keys and values lie in one array, in the order retrieved | sinks | newest. Order in memory
means nothing to attention; this one lets a query's whole view be a slice, so that a token of an answer costs
no copy of the cache.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class Window:
    """The exact tokens of several layers.

    Args:
        layers: how many.
        sinks: tokens at the beginning that stay.
        capacity: tokens behind them that are kept between two chunks.
    """

    def __init__(self, layers: int, sinks: int, capacity: int) -> None:
        self.layers, self.sinks, self.capacity = layers, sinks, sinks + capacity
        self.front = 0
        """Tokens in front that were retrieved and are seen."""
        self._front_room = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
        filled: int,
        leaving: int,
    ) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
        """Add a chunk to a layer, and return all that it sees: what is in front, what was kept, and itself.

        Args:
            layer: counted from 0 among these.
            keys: of the chunk.
            values: of the chunk.
            filled: tokens kept so far.
            leaving: the oldest behind the sinks, that are not kept any more; the chunk still sees them.
        """
        if self._keys is None or self._values is None:
            self._keys, self._values = self._empty(keys), self._empty(values)
        return (
            self._extend(self._keys[layer], keys, filled, leaving),
            self._extend(self._values[layer], values, filled, leaving),
        )

    def fill(self, keys: Float[Tensor, "layers B G R D"], values: Float[Tensor, "layers B G R D"]) -> None:
        """Put retrieved tokens in front, in place of those before."""
        assert self._keys is not None
        assert self._values is not None
        self.front = keys.shape[3]
        if self.front > self._front_room:
            former, self._front_room = self._front_room, self.front
            self._keys, self._values = (self._moved(part, former) for part in (self._keys, self._values))
        place = slice(self._front_room - self.front, self._front_room)
        self._keys[:, :, :, place] = keys
        self._values[:, :, :, place] = values

    @property
    def dtype(self) -> torch.dtype:
        """Of what was added."""
        assert self._keys is not None
        return self._keys.dtype

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(part.nbytes for part in (self._keys, self._values) if part is not None)

    def _empty(self, like: Float[Tensor, "B G T D"]) -> Float[Tensor, "layers B G S D"]:
        batch, groups, _, size = like.shape
        return like.new_empty((self.layers, batch, groups, self._front_room + self.capacity, size))

    def _moved(self, former: Tensor, room: int) -> Tensor:
        fresh = self._empty(former[0])
        fresh[:, :, :, self._front_room :] = former[:, :, :, room:]
        return fresh

    def _extend(self, buffer: Tensor, chunk: Tensor, filled: int, leaving: int) -> Tensor:
        begin, width = self._front_room, chunk.shape[2]
        if not leaving and filled + width <= self.capacity:
            buffer[:, :, begin + filled : begin + filled + width] = chunk
            return buffer[:, :, begin - self.front : begin + filled + width]
        seen = torch.cat([buffer[:, :, begin - self.front : begin + filled], chunk], dim=2)
        own = seen[:, :, self.front :]
        if filled < self.sinks:
            buffer[:, :, begin : begin + self.sinks] = own[:, :, : self.sinks]
        kept = own[:, :, self.sinks + leaving :]
        buffer[:, :, begin + self.sinks : begin + self.sinks + kept.shape[2]] = kept
        return seen
