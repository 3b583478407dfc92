"""What is left of a layer's prompt, a number of tokens of its own for each head, and what came since."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.longcontext.baselines.buffers import Growing
from pipeline.longcontext.context import Seen


class Kept:
    """Rotated keys and values that one layer keeps of a prompt, and those of the answer.

    Where heads keep different numbers of tokens, these lie one after the other without gaps, so that the
    bytes held are those of what is kept; they are laid out side by side for each read, which costs time that
    a paged attention kernel would not need.

    Args:
        keys: of the prompt, rotated.
        values: of the prompt.
        mask: True where a token is kept.
        room: tokens of the answer.
        weights: how many tokens the first kept key of each head stands for; None where each stands for one.
    """

    def __init__(
        self,
        keys: Float[Tensor, "B G N D"],
        values: Float[Tensor, "B G N D"],
        mask: Bool[Tensor, "B G N"],
        room: int = 0,
        weights: Float[Tensor, "B G"] | None = None,
    ) -> None:
        counts: Int[Tensor, "B G"] = mask.sum(dim=-1)
        least, self.most = (int(count) for count in torch.stack([counts.min(), counts.max()]).tolist())
        self.counts = None if least == self.most else counts
        self.weights = weights
        flat = keys[mask], values[mask]
        if self.counts is None:
            shape = (*counts.shape, self.most, keys.shape[-1])
            self.since = Growing(self.most + room)
            self.since.append(flat[0].view(shape), flat[1].view(shape))
            self.flat: tuple[Tensor, ...] = ()
        else:
            self.since, self.flat = Growing(room), flat

    def seen(
        self,
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
        queries_at: Int[Tensor, " T"],
    ) -> Seen:
        """Add tokens of the answer and return what their queries see.

        Args:
            keys: rotated.
            values: beside them.
            queries_at: where the tokens stand.
        """
        self.since.append(keys, values)
        if self.counts is None:
            return Seen(
                self.since.keys,
                self.since.values,
                queries_at,
                bias=self._bias(self.since.length, keys.shape[2]),
            )
        places = torch.arange(self.most, device=keys.device)
        starts = self.counts.flatten().cumsum(0).view_as(self.counts) - self.counts
        at = (starts[..., None] + places).clamp(max=len(self.flat[0]) - 1)
        padded = [torch.cat([part[at], new], dim=2) for part, new in zip(self.flat, self._since, strict=True)]
        width, since = keys.shape[2], self.since.length
        old = (places < self.counts[..., None])[:, :, None].expand(-1, -1, width, -1)
        new = torch.ones(width, since, dtype=torch.bool, device=keys.device).tril(since - width)
        mask = torch.cat([old, new.expand(*self.counts.shape, -1, -1)], dim=-1)
        return Seen(padded[0], padded[1], queries_at, mask=mask, bias=self._bias(mask.shape[-1], width))

    @property
    def _since(self) -> tuple[Tensor, Tensor]:
        return self.since.keys, self.since.values

    def _bias(self, length: int, width: int) -> Float[Tensor, "B G T S"] | None:
        if self.weights is None:
            return None
        bias = self.weights.new_zeros(*self.weights.shape, width, length)
        bias[..., 0] = self.weights.log()[..., None]
        return bias

    @property
    def nbytes(self) -> int:
        """Bytes kept between two chunks."""
        extra = [part for part in (self.counts, self.weights) if part is not None]
        return self.since.nbytes + sum(part.nbytes for part in (*self.flat, *extra))
