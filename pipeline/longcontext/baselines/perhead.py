"""KV-Compress (Rehg, arXiv 2410.00161): heads and layers compete for one budget."""

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.longcontext.baselines.snapkv import SnapKV


class PerHeadEviction(SnapKV):
    """Keeps the tokens of best score over all heads and layers of a text; some heads keep next to nothing.

    This is KVC-w: attention squared before it is summed over the last queries and their group (equation 10
    with section 4.3), pooled. The paper frees blocks of 16 tokens of a head, the layout of its paged kernel,
    and says that small blocks do what single tokens would; here tokens are dropped one by one.
    """

    power = 2

    def chosen(self, count: int, width: int) -> list[Bool[Tensor, "B G N"]]:
        """See `SnapKV.chosen`."""
        scores = torch.stack([self.scores(layer, width) for layer in range(len(self.buffers))], dim=1)
        rows, layers, groups = scores.shape[:3]
        kept = torch.zeros_like(scores, dtype=torch.bool)
        for row, mask in zip(scores, kept, strict=True):  # one by one: sorting takes much memory
            mask.view(-1)[row.flatten().topk(layers * groups * count).indices] = True
        last = kept.new_ones(rows, layers, groups, width)
        return list(torch.cat([kept, last], dim=-1).unbind(dim=1))
