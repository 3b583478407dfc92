"""DSRAM: what queries see of a long text is its beginning, a window, and blocks that a retriever picks.

Signatures only for now; see the class docstrings.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.longcontext import settings as values
from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.lowrank import Bases


@dataclass(frozen=True)
class Shape:
    """The decoder's attention, as contexts must know it."""

    layers: int
    groups: int
    """KV heads, G."""
    size: int
    """Numbers of a head, D."""
    positions: int
    """Positions that the decoder was trained on."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the shape of a decoder of the transformers library, from its configuration."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.num_hidden_layers, groups, size, config.max_position_embeddings)


class Retrieving(Protocol):
    """What a retriever offers (`retriever.Retriever`)."""

    def summaries(self, states: Float[Tensor, "B N block C"]) -> Float[Tensor, "B N S"]:
        """Return the summary of each block, from the states of its tokens."""

    def query(self, state: Float[Tensor, "B C"]) -> Float[Tensor, "B S"]:
        """Return what summaries are compared with, from the state of one token."""

    def scores(self, query: Float[Tensor, "B S"], summaries: Float[Tensor, "B N S"]) -> Float[Tensor, "B N"]:
        """Return logits: above 0 a block is worth its tokens."""


class Dsram(Context):
    """See the module.

    Block j holds the tokens [block·j, block·(j+1)) of the text. Blocks below sinks / block are always seen and
    never retrieved; candidates are the complete blocks between them and the window.

    Args:
        settings: see there.
        shape: of the decoder.
        retriever: on `device`.
        bases: of the layers from `first_layer` on; None where both ranks are 0.
        device: where the decoder computes.
        dtype: of its keys and values.
    """

    selected: Int[Tensor, "B k"] | None
    """Blocks of the last selection in text order, -1 (in front) where a row has fewer; None before the first."""
    retrieved_tokens: Int[Tensor, " B"]
    """Tokens of the last selection's blocks; 0 before the first."""

    def __init__(
        self,
        settings: values.Dsram,
        shape: Shape,
        retriever: Retrieving,
        bases: Bases | None,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        raise NotImplementedError

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        raise NotImplementedError

    def held(self) -> Held:
        """See `Context.held`."""
        raise NotImplementedError
