"""What a decoder keeps of a long text, and what its queries see of it.

Keys come and are kept *before* rotation: what is fetched again later can then stand at any position inside
the window that the model was trained on.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """The keys and values that the queries of one layer attend to; the last T keys are the queries' own."""

    keys: Float[Tensor, "B G S D"]
    """Before rotation, unless `positions` is None."""
    values: Float[Tensor, "B G S D"]
    queries_at: Int[Tensor, " T"]
    """Positions of the queries."""
    positions: Int[Tensor, " S"] | Int[Tensor, "B S"] | None = None
    """Positions of the keys, of each text its own where they differ; None where they are rotated already."""
    mask: Bool[Tensor, "#B #G T S"] | None = None
    """True where a query sees a key; None where each sees all keys but those of later queries."""
    bias: Float[Tensor, "#B #G T S"] | None = None
    """Nats added to the logits: gates of what was retrieved, while they are learned; how many tokens a key
    stands for."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a context holds now, in bytes."""

    device: int
    """Where the model computes."""
    host: int = 0
    disk: int = 0


class Context(ABC):
    """What every layer keeps of one batch of texts.

    A context serves once. `Runner` calls, for each chunk, `observe` with the states that enter layer
    `watched`, and `read` by each layer in turn; `ready` when the prompt is over; then chunks of one token,
    the answer's. `asking` tells the text from the question and the answer.
    """

    watched: int | None = None
    """The layer whose input `observe` is given; None for none. It is called before that layer's `read`."""
    asking: bool = False
    """Whether the present chunk belongs to the question or the answer; set by `Runner`."""

    @abstractmethod
    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """Keep what a chunk brings to a layer, and return what its queries see.

        Args:
            layer: from 0; every chunk goes through all of them in turn.
            queries: of the chunk, before rotation.
            keys: of the chunk, before rotation.
            values: of the chunk.
        """

    @abstractmethod
    def held(self) -> Held:
        """Return the bytes that are kept between two chunks."""

    def observe(self, states: Float[Tensor, "B T C"]) -> None:  # noqa: B027 - most watch nothing
        """Take the states of a chunk that enter layer `watched`."""

    def ready(self) -> None:  # noqa: B027 - most don't care
        """Take note that the prompt was read: the next token will be the answer's first."""


class FullKV(Context):
    """Everything is kept and everything is seen, at its true position.

    Args:
        layers: of the model.
    """

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        former, width = self.keys[layer], keys.shape[2]
        if former is not None:
            keys = torch.cat([former, keys], dim=2)
            values = torch.cat([self.values[layer], values], dim=2)  # type: ignore[list-item]
        self.keys[layer], self.values[layer] = keys, values
        positions = torch.arange(keys.shape[2], device=keys.device)
        return Seen(keys, values, positions[-width:], positions)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(sum(part.nbytes for part in (*self.keys, *self.values) if part is not None))
