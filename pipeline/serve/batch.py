"""Answers that are said side by side, one token of each at a time; others join and leave between tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from pipeline.model.attention import FactTokens, reading
from pipeline.model.ours import OurSystem
from pipeline.shapes import TokenIds


class Batch:
    """The rows of a batch: what the model has read of each, its facts and its last token.

    Rows are padded on the left, so that the next token of all is at one place; what is hidden of a row
    changes no answer. The system must be attached to its model.

    Args:
        system: says the answers.
    """

    def __init__(self, system: OurSystem) -> None:
        self._system = system
        self._cache: DynamicCache | None = None
        self._mask: TokenIds
        self._facts: FactTokens
        self._last: Int[Tensor, " B"]

    def __len__(self) -> int:
        return 0 if self._cache is None else len(self._last)

    @torch.no_grad()
    def join(self, prompts: Sequence[Sequence[int]], facts: FactTokens) -> list[int]:
        """Read prompts; they are the last rows from now on. Return the first token of each answer.

        Args:
            prompts: token ids of each, maybe with the beginning of the answer.
            facts: what each of them reads.
        """
        reader = self._system.reader
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), reader.stop)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        cache = DynamicCache()  # made without a configuration, it keeps every token of sliding layers too
        ids, mask = ids.to(reader.device), mask.to(reader.device)
        first = self._next(ids, mask, cache, facts)
        if self._cache is None:
            self._cache, self._mask, self._facts, self._last = cache, mask, facts, first
        else:
            _extend(self._cache, cache, self._mask.shape[1], width)
            self._mask = _beside(self._mask, mask)
            self._facts = together([self._facts, facts])
            self._last = torch.cat([self._last, first])
        return list(first.tolist())

    @torch.no_grad()
    def step(self) -> list[int]:
        """Return the token that follows the last one, of each row."""
        assert self._cache is not None
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._last = self._next(self._last[:, None], self._mask, self._cache, self._facts)
        return list(self._last.tolist())

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; columns that none of them uses go with the others."""
        if not rows:
            self._cache = None
            return
        if self._cache is None or list(rows) == list(range(len(self))):
            return
        kept = torch.tensor(rows, device=self._last.device)
        self._mask, self._last, self._facts = self._mask[kept], self._last[kept], self._facts.of(kept)
        empty = int(self._mask.any(dim=0).int().argmax())
        self._mask = self._mask[:, empty:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[kept, :, empty:], layer.values[kept, :, empty:]
        hidden = torch.finfo(self._facts.keys.dtype).min
        used = (self._facts.shift > hidden).any(dim=0).nonzero()
        width = int(used.max()) + 1 if len(used) else 1
        self._facts = _cut(self._facts, width)

    def _next(
        self, ids: TokenIds, mask: TokenIds, cache: DynamicCache, facts: FactTokens
    ) -> Int[Tensor, " B"]:
        reader = self._system.reader
        with reading(facts), self._system.lowrank.attached(reader.lm):
            return reader.following(ids, mask, cache)


def _extend(cache: DynamicCache, others: DynamicCache, held: int, width: int) -> None:
    """Put the rows of `others`, of `width` columns, behind those of `cache`, of `held` columns."""
    for layer, more in zip(cache.layers, others.layers, strict=True):
        layer.keys = _stacked(layer.keys, more.keys, width - held)
        layer.values = _stacked(layer.values, more.values, width - held)


def _stacked(
    held: Float[Tensor, "B G S D"], more: Float[Tensor, "R G T D"], wider: int
) -> Float[Tensor, "BR G U D"]:
    """Return both, the narrower one padded on the left; `wider` is T - S."""
    held, more = F.pad(held, (0, 0, max(wider, 0), 0)), F.pad(more, (0, 0, max(-wider, 0), 0))
    return torch.cat([held, more])


def _beside(held: TokenIds, more: TokenIds) -> TokenIds:
    wider = more.shape[1] - held.shape[1]
    return torch.cat([F.pad(held, (max(wider, 0), 0)), F.pad(more, (max(-wider, 0), 0))])


def together(parts: Sequence[FactTokens]) -> FactTokens:
    """Return what the rows of all parts read, narrower ones padded with tokens that are hidden."""
    width = max(part.shift.shape[1] for part in parts)
    wide = [_widened(part, width) for part in parts]
    return replace(
        wide[0],
        keys=torch.cat([part.keys for part in wide], dim=1),
        values=torch.cat([part.values for part in wide], dim=1),
        shift=torch.cat([part.shift for part in wide]),
    )


def _widened(facts: FactTokens, width: int) -> FactTokens:
    missing = width - facts.shift.shape[1]
    if not missing:
        return facts
    states = [F.pad(part, (0, 0, 0, missing)) for part in (facts.keys, facts.values)]
    shift = F.pad(facts.shift, (0, missing), value=torch.finfo(facts.keys.dtype).min)
    return replace(facts, keys=states[0], values=states[1], shift=shift)


def _cut(facts: FactTokens, width: int) -> FactTokens:
    return replace(
        facts,
        keys=facts.keys[:, :, :, :width],
        values=facts.values[:, :, :, :width],
        shift=facts.shift[:, :width],
    )
