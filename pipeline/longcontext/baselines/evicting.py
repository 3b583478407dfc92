"""The common part of methods that read a prompt whole and then drop most of it."""

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.longcontext.baselines.buffers import Growing
from pipeline.longcontext.baselines.full import RotatedKV
from pipeline.longcontext.baselines.kept import Kept
from pipeline.longcontext.context import Held, Seen


class Lengths(NamedTuple):
    """Tokens of a text and of what is answered to it; buffers are made for so many."""

    prompt: int
    answer: int


class Evicting(RotatedKV):
    """Keeps and sees everything until the prompt was read; then only what `masks` says, and the answer.

    Its memory before the answer is therefore FullKV's. Tokens keep the positions that they were read at,
    and the answer goes on from the prompt's.

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        lengths: of the text.
    """

    def __init__(self, layers: int, rotary: nn.Module, lengths: Lengths) -> None:
        super().__init__(layers, rotary, lengths.prompt)
        self.lengths = lengths
        self.kept: list[Kept] = []
        self.ends = [0] * layers

    @abstractmethod
    def masks(self) -> list[Bool[Tensor, "B G N"]]:
        """Return for each layer which tokens of the prompt its heads keep."""

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        start = self.ends[layer]
        self.ends[layer] += keys.shape[2]
        if not self.kept:
            return super().read(layer, queries, keys, values)
        positions = self.places(start, keys)
        return self.kept[layer].seen(self.rotation.turned(keys, positions), values, positions)

    def ready(self) -> None:
        """Drop what is not kept."""
        masks = self.masks()
        for layer, mask in enumerate(masks):
            self.kept.append(self.thinned(layer, mask))
            self.buffers[layer] = Growing()

    def thinned(self, layer: int, mask: Bool[Tensor, "B G N"]) -> Kept:
        """Return what a layer keeps."""
        buffer = self.buffers[layer]
        return Kept(buffer.keys, buffer.values, mask, self.lengths.answer)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(super().held().device + sum(kept.nbytes for kept in self.kept))
