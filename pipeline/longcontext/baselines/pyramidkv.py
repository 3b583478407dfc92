"""PyramidKV (Cai et al., arXiv 2406.02069): lower layers look around more, so they keep more."""

from itertools import pairwise
from math import floor

from torch import nn

from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.settings import Observation
from pipeline.longcontext.baselines.snapkv import SnapKV


class PyramidKV(SnapKV):
    """SnapKV with a budget that falls from layer to layer by equal steps.

    The top layer keeps mean / β tokens besides the last ones, the lowest 2 · mean − mean / β, but no more
    than there are; the layers' sum is SnapKV's, to the token.

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        lengths: of the text.
        budget: tokens that a head keeps on average: see `tokens`.
        observation: how the prompt's end is looked at.
        beta: β, how steep the pyramid is (the paper: 20).
    """

    def __init__(
        self,
        layers: int,
        rotary: nn.Module,
        lengths: Lengths,
        budget: float,
        observation: Observation,
        beta: float,
    ) -> None:
        super().__init__(layers, rotary, lengths, budget, observation)
        self.beta = beta

    def counts(self, mean: int, limit: int) -> list[int]:
        """See `SnapKV.counts`."""
        return pyramid(mean, limit, len(self.buffers), self.beta)


def pyramid(mean: int, limit: int, layers: int, beta: float) -> list[int]:
    """Return numbers of mean `mean`, none above `limit`, that fall by equal steps up to rounding."""
    half = min(mean - mean / beta, limit - mean) if layers > 1 else 0
    step = 2 * half / max(layers - 1, 1)
    # the sum of the first n is n · (mean + half) − step · n (n − 1) / 2; rounding sums keeps the total
    sums = [floor(n * (mean + half) - step * n * (n - 1) / 2 + 0.5) for n in range(layers + 1)]
    return [after - before for before, after in pairwise(sums)]
