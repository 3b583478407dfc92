"""Quest (Tang et al., arXiv 2406.10774): everything is kept, each token of the answer reads a few pages."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.longcontext.baselines.buffers import Growing, blocks
from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.full import RotatedKV
from pipeline.longcontext.baselines.settings import Quest, tokens
from pipeline.longcontext.context import Held, Seen


class QuestPages(RotatedKV):
    """FullKV whose answer reads, in each layer and head, the pages whose keys may match the query best.

    Of each page the least and greatest value of each dimension of its rotated keys are kept; they bound the
    logit of any key in it (see `bounds`). The pages of highest bound are read, besides the page that is
    still being filled. The paper has no grouped queries; here a group reads the same pages, by the highest
    bound of its heads. The prompt is read whole, and so are the lowest layers.

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        lengths: of the text.
        budget: tokens that are read of those there are, rounded up to whole pages: see `tokens`.
        quest: sizes.
    """

    def __init__(self, layers: int, rotary: nn.Module, lengths: Lengths, budget: float, quest: Quest) -> None:
        super().__init__(layers, rotary, sum(lengths))
        self.budget, self.quest = budget, quest
        self.ranges = [Growing(self.room // quest.page) for _ in range(layers)]
        self.answering = False

    def ready(self) -> None:
        """See `Context.ready`."""
        self.answering = True
        for layer in range(len(self.buffers)):
            self._measure(layer)

    def _measure(self, layer: int) -> None:
        """Take the ranges of pages that were completed."""
        ranges, keys, page = self.ranges[layer], self.buffers[layer].keys, self.quest.page
        complete = keys.shape[2] // page
        if layer >= self.quest.dense and complete > ranges.length:
            new = blocks(keys[:, :, ranges.length * page : complete * page], page)
            ranges.append(*new.aminmax(dim=3))

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        if not self.answering or layer < self.quest.dense:
            return super().read(layer, queries, keys, values)
        self._measure(layer)
        ranges = self.ranges[layer]
        seen = super().read(layer, queries, keys, values)
        pages = -(-tokens(self.budget, seen.keys.shape[2]) // self.quest.page)
        if pages >= ranges.length:
            return seen
        turned = self.rotation.turned(queries, seen.queries_at)
        limits = bounds(turned, ranges.keys, ranges.values)
        chosen = limits.topk(pages, dim=-1).indices  # B G T k
        if queries.shape[2] == 1:
            return self._gathered(seen, chosen[:, :, 0].sort(dim=-1).values, ranges.length)
        return self._masked(seen, chosen, ranges.length)

    def _gathered(self, seen: Seen, chosen: Int[Tensor, "B G k"], pages: int) -> Seen:
        end, page = pages * self.quest.page, self.quest.page
        rows, groups = (torch.arange(size, device=chosen.device) for size in chosen.shape[:2])
        parts = []
        for part in (seen.keys, seen.values):
            taken = blocks(part[:, :, :end], page)[rows[:, None, None], groups[:, None], chosen]
            parts.append(torch.cat([taken.flatten(2, 3), part[:, :, end:]], dim=2))
        return Seen(parts[0], parts[1], seen.queries_at)

    def _masked(self, seen: Seen, chosen: Int[Tensor, "B G T k"], pages: int) -> Seen:
        picked = torch.zeros(*chosen.shape[:3], pages, dtype=torch.bool, device=chosen.device)
        picked = picked.scatter(-1, chosen, True).repeat_interleave(self.quest.page, dim=-1)
        width, rest = chosen.shape[2], seen.keys.shape[2] - picked.shape[-1]
        own: Bool[Tensor, "T R"] = picked.new_ones(width, rest).tril(rest - width)
        mask = torch.cat([picked, own.expand(*picked.shape[:2], -1, -1)], dim=-1)
        return Seen(seen.keys, seen.values, seen.queries_at, mask=mask)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(super().held().device + sum(ranges.nbytes for ranges in self.ranges))


def bounds(
    queries: Float[Tensor, "B H T D"], least: Float[Tensor, "B G P D"], most: Float[Tensor, "B G P D"]
) -> Float[Tensor, "B G T P"]:
    """Return an upper bound of q · k over a group's queries and the keys of a page.

        Σ_d max(q_d · least_d, q_d · most_d) = q⁺ · most + q⁻ · least

    Args:
        queries: rotated.
        least: least value of each dimension of a page's keys.
        most: greatest.
    """
    rows, groups, pages, size = least.shape
    stacked = queries.reshape(rows, groups, -1, size)
    limits = stacked.clamp(min=0) @ most.transpose(2, 3) + stacked.clamp(max=0) @ least.transpose(2, 3)
    return limits.view(rows, groups, -1, queries.shape[2], pages).amax(dim=2)
