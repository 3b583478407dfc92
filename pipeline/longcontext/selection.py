"""How many blocks are retrieved, and which."""

import math
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.longcontext.settings import Dsram


class Retrieving(Protocol):
    """What a retriever offers; `retriever.Retriever` is the learned one."""

    def summaries(self, states: Float[Tensor, "B N block C"]) -> Float[Tensor, "B N S"]:
        """Return a summary of each block, from the states of its tokens."""

    def query(self, states: Float[Tensor, "B T C"]) -> Float[Tensor, "B D"]:
        """Return what summaries are compared with, from the states of the tokens that ask."""

    def scores(self, query: Float[Tensor, "B D"], summaries: Float[Tensor, "B N S"]) -> Float[Tensor, "B N"]:
        """Return logits: above 0, the stop action's, a block is worth its tokens."""


def budget(settings: Dsram, tokens: int) -> int:
    """Return how many blocks a text of n tokens is worth: ⌈k_base + k_log · log₂(n / k_from)⌉.

    It is never more than `k_most`, and for texts shorter than `k_from` what it is for one of that length.
    """
    doublings = max(0.0, math.log2(max(1, tokens) / settings.k_from))
    return min(settings.k_most, math.ceil(settings.k_base + settings.k_log * doublings))


def picked_blocks(scores: Float[Tensor, "B N"], k: int, stop: bool, first: int) -> Int[Tensor, "B k"]:
    """Return the blocks with the k best scores in text order, -1 in front of rows that have fewer.

    Args:
        scores: of blocks `first`, `first` + 1, …
        k: at most N.
        stop: whether blocks that don't score above 0 are left out; a column that no row needs isn't returned.
        first: number of the first block.
    """
    best, places = scores.topk(k, dim=1)
    picked = places + first
    if not stop:
        return picked.sort(dim=1).values
    picked = picked.masked_fill(best <= 0, -1).sort(dim=1).values
    needed = int((picked >= 0).sum(dim=1).amax()) if len(picked) else 0
    fewer: Tensor = picked[:, k - needed :]
    return fewer
