"""SnapKV (Li et al., arXiv 2404.14469): keep what the end of the prompt looks at."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.longcontext.baselines.evicting import Evicting, Lengths
from pipeline.longcontext.baselines.observing import pooled, received
from pipeline.longcontext.baselines.settings import Observation, tokens
from pipeline.longcontext.context import Held, Seen


class SnapKV(Evicting):
    """Keeps for each head the last w tokens and those before them that they attend to most.

    A token's score is the attention that the last w queries give it, pooled over its neighbours so that what
    stands around it is kept too; every head keeps the same number. The paper's code stores keys once a query
    head; here the query heads of a group share their choice (see the package).

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        lengths: of the text.
        budget: tokens that a head keeps on average, the last w included: see `tokens`.
        observation: how the prompt's end is looked at.
    """

    power = 1
    """Of the attention that is summed."""

    def __init__(
        self, layers: int, rotary: nn.Module, lengths: Lengths, budget: float, observation: Observation
    ) -> None:
        super().__init__(layers, rotary, lengths)
        self.budget, self.observation = budget, observation
        self.last: list[Tensor | None] = [None] * layers

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        if not self.kept:
            former, new = self.last[layer], queries[:, :, -self.observation.queries :]
            short = self.observation.queries - new.shape[2]
            joined = new if former is None or not short else torch.cat([former[:, :, -short:], new], dim=2)
            self.last[layer] = joined.clone() if joined is new else joined
        return super().read(layer, queries, keys, values)

    def masks(self) -> list[Bool[Tensor, "B G N"]]:
        """Return for each layer which tokens of the prompt its heads keep.

        Raises:
            UserError: the budget allows no more than the tokens that are kept in any case.
        """
        length = self.ends[0]
        kept = tokens(self.budget, length)
        if kept >= length:
            return [self._all(layer) for layer in range(len(self.buffers))]
        width = min(self.observation.queries, length)
        if kept <= width:
            raise UserError(
                f"the budget is {kept} of {length} tokens, but the last {width} are kept in any case"
            )
        return self.chosen(kept - width, width)

    def ready(self) -> None:
        """See `Evicting.ready`."""
        super().ready()
        self.last = [None] * len(self.last)

    def chosen(self, count: int, width: int) -> list[Bool[Tensor, "B G N"]]:
        """Return the masks where a prompt is longer than the budget.

        Args:
            count: tokens that a head keeps on average, besides the last.
            width: the last tokens, which all heads keep.
        """
        return [
            best(self.scores(layer, width), count, width)
            for layer, count in enumerate(self.counts(count, self.ends[0] - width))
        ]

    def counts(self, mean: int, limit: int) -> list[int]:
        """Return how many tokens each layer's heads keep besides the last.

        Args:
            mean: over the layers.
            limit: tokens that there are.
        """
        return [min(mean, limit)] * len(self.buffers)

    def scores(self, layer: int, width: int) -> Float[Tensor, "B G P"]:
        """Return how much each token before the last `width` is looked at."""
        keys, last = self.buffers[layer].keys, self.last[layer]
        assert last is not None
        at = self.places(keys.shape[2] - width, last)
        attention = received(self.rotation.turned(last, at), keys, self.power)[..., :-width]
        return pooled(attention, self.observation.pooling, self.observation.pool)

    def _all(self, layer: int) -> Bool[Tensor, "B G N"]:
        keys = self.buffers[layer].keys
        return torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(super().held().device + sum(part.nbytes for part in self.last if part is not None))


def best(scores: Float[Tensor, "B G P"], count: int, width: int) -> Bool[Tensor, "B G N"]:
    """Return True at each head's `count` best scores and at `width` tokens after them all."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask.scatter_(-1, scores.topk(count, dim=-1).indices, True)
    return torch.cat([mask, mask.new_ones(*mask.shape[:2], width)], dim=-1)
