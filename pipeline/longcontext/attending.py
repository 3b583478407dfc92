"""What a replayed question attends to, for the attention term of the hybrid loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.longcontext.context import Seen
from pipeline.longcontext.episodes import Replay, Texts
from pipeline.longcontext.losses import attention_term
from pipeline.longcontext.running import Rotation, Runner


class Watching(Replay):
    """A replay that adds up the attention term of the layers that fetch.

    Args:
        runner: of the model.
        texts: as for `Replay`.
        rows: as for `Replay`.
        chosen: as for `Replay`.
        bias: as for `Replay`.
        kind: frobenius or entropy.
    """

    def __init__(
        self,
        runner: Runner,
        texts: Texts,
        rows: Int[Tensor, " B"],
        chosen: Int[Tensor, "B K"],
        bias: Float[Tensor, "B K"],
        kind: str,
    ) -> None:
        super().__init__(texts, rows, chosen, bias)
        self.kind = kind
        self.total = bias.new_zeros(len(rows))
        """The term's mean over those layers, of each question, once all have read."""
        self._rotation = Rotation(runner.lm.base_model.rotary_emb)
        self._layers = runner.layers - texts.window.first_layer

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        seen = super().read(layer, queries, keys, values)
        if layer >= self.texts.window.first_layer:
            self.total = self.total + attention_term(self._weights(queries, seen), self.kind) / self._layers
        return seen

    def _weights(self, queries: Float[Tensor, "B H T D"], seen: Seen) -> Float[Tensor, "B H T S"]:
        assert seen.positions is not None
        keys = self._rotation.turned(seen.keys, seen.positions)
        queries = self._rotation.turned(queries, seen.queries_at)
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        logits = (queries @ keys.transpose(2, 3)).float() / queries.shape[-1] ** 0.5
        if seen.bias is not None:
            logits = logits + seen.bias
        mask = seen.mask
        if mask is None:
            width, places = logits.shape[-2:]
            mask = torch.ones(width, places, dtype=torch.bool, device=logits.device).tril(places - width)
        weights: Tensor = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return weights
