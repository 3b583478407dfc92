"""RazorAttention (Tang et al., arXiv 2407.15891): only retrieval heads need the whole past."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.longcontext.baselines.evicting import Evicting, Lengths
from pipeline.longcontext.baselines.kept import Kept
from pipeline.longcontext.baselines.settings import Razor, tokens


class RazorAttention(Evicting):
    """Retrieval heads keep everything; the others sinks, a window, and one token for all that they drop.

    The compensation token has the mean key and value of the dropped tokens and counts as many times as there
    are of them (equations 4 and 5): log N_d is added to its logit.

    Args:
        rotary: the model's rotary embedding.
        lengths: of the text.
        whole: the key-value heads that keep everything: see `heads.retrieval_groups`.
        razor: how far the others see.
        budget: tokens that a head keeps on average; counts where `razor.budgeted`.
    """

    def __init__(
        self,
        rotary: nn.Module,
        lengths: Lengths,
        whole: Bool[Tensor, "L G"],
        razor: Razor,
        budget: float,
    ) -> None:
        super().__init__(len(whole), rotary, lengths)
        self.whole, self.razor, self.budget = whole, razor, budget

    def window(self, length: int) -> int:
        """Return how many of the last tokens of a prompt the other heads keep.

        Raises:
            UserError: the budget leaves them none.
        """
        razor = self.razor
        if not razor.budgeted:
            return max(razor.least, length // razor.part)
        heads, whole = self.whole.numel(), int(self.whole.sum())
        allowed = heads * tokens(self.budget, length)
        if allowed == heads * length:
            return length
        window = (allowed - whole * length) // max(heads - whole, 1) - razor.sinks - 1
        if window < 1:
            raise UserError(
                f"longtasks.baselines.budget is {self.budget}, but {whole} of {heads} heads keep all "
                f"{length} tokens and leave nothing to the others: raise it, or lower razor.induction"
            )
        return window

    def masks(self) -> list[Bool[Tensor, "B G N"]]:
        """See `Evicting.masks`."""
        keys = self.buffers[0].keys
        places = torch.arange(keys.shape[2], device=keys.device)
        near = (places < self.razor.sinks) | (places >= len(places) - self.window(len(places)))
        masks = near | self.whole.to(keys.device)[..., None]
        return [mask.expand(len(keys), -1, -1) for mask in masks]

    def thinned(self, layer: int, mask: Bool[Tensor, "B G N"]) -> Kept:
        """See `Evicting.thinned`."""
        buffer = self.buffers[layer]
        dropped = (~mask).sum(dim=-1, dtype=torch.float32)
        share = (~mask).unsqueeze(2).to(buffer.keys.dtype)
        parts = [
            torch.cat([(share @ part / dropped.clamp(min=1)[..., None, None]).to(part.dtype), part], dim=2)
            for part in (buffer.keys, buffer.values)
        ]
        mask = torch.cat([(dropped > 0)[..., None], mask], dim=-1)
        return Kept(parts[0], parts[1], mask, self.lengths.answer, weights=dropped.clamp(min=1))
