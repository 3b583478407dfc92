"""Facts as the keys and values of their tokens, each prefilled alone by the frozen model."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from pipeline.model.attention import FactTokens
from pipeline.model.reader import Reader
from pipeline.model.sharding import rounds

PREFILLED = 64
"""Facts that are prefilled at once."""


class FactReader:
    """Keys and values of facts, each prefilled alone by the frozen model, kept in a bounded cache.

    A fact stands at the positions -window … -window + L - 1, before the question's first token at 0: for
    rotary embeddings only the distance counts, so no position of the question moves.

    Args:
        reader: the frozen language model.
        first_layer: lowest layer that reads facts; those below aren't kept.
        window: tokens of the longest fact; a longer one is cut and counted in `cut`.
        capacity: tokens of facts that the cache keeps, the least recently used ones leave first.
    """

    def __init__(self, reader: Reader, first_layer: int, window: int, capacity: int) -> None:
        self.reader = reader
        self.first_layer = first_layer
        self.window = window
        self.capacity = capacity
        self.cut = 0
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._held = 0

    def facts(self, texts: Sequence[Sequence[str]], shift: Float[Tensor, "B K"]) -> FactTokens:
        """Return the tokens of each question's facts with the shift of their fact.

        Args:
            texts: the facts of each question, at most K.
            shift: log-probability of each fact; columns beyond a question's facts are ignored.
        """
        distinct = sorted({text for row in texts for text in row})
        states = self._states(distinct)
        lengths = [state.shape[3] for state in states.values()]
        longest = max(lengths, default=1)
        device, dtype = self.reader.device, self.reader.lm.dtype
        config = self.reader.lm.config
        some = next(iter(states.values()), torch.empty(2, 0, 1, 0, config.hidden_size))
        nothing = torch.zeros(2, self.reader.layers - self.first_layer, some.shape[2], 1, some.shape[4])
        table = torch.cat([*states.values(), nothing.to(device, dtype)], dim=3)  # all tokens in one row
        starts = dict(zip(states, accumulate(lengths, initial=0), strict=False))
        places = np.full((len(texts), shift.shape[1], longest), sum(lengths))
        for row, facts in enumerate(texts):
            for column, text in enumerate(facts):
                length = states[text].shape[3]
                places[row, column, :length] = np.arange(starts[text], starts[text] + length)
        chosen = torch.from_numpy(places).to(device)
        joined = table[:, :, :, chosen.flatten(1)].transpose(2, 3)  # 2 layers B G J D
        token_shift = shift[..., None].expand(-1, -1, longest)
        token_shift = token_shift.masked_fill(chosen == sum(lengths), torch.finfo(dtype).min)
        return FactTokens(joined[0], joined[1], token_shift.flatten(1), self.first_layer)

    def clear(self) -> None:
        """Empty the cache."""
        self._cache.clear()
        self._held = 0

    def _states(self, texts: Sequence[str]) -> dict[str, Float[Tensor, "2 layers G L D"]]:
        missing = [text for text in texts if text not in self._cache]
        found = {text: self._cache[text] for text in texts if text in self._cache}
        for text in found:
            self._cache.move_to_end(text)
        if rounds(self.reader.lm, len(missing)):
            found |= dict(zip(missing, self.prefill(missing), strict=True))
        for text in missing:
            self._cache[text] = found[text]
            self._held += found[text].shape[3]
        while self._held > self.capacity and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._held -= oldest.shape[3]
        return found

    def prefill(self, texts: Sequence[str]) -> list[Float[Tensor, "2 layers G L D"]]:
        """Compute the keys and values of `texts`, those alike in length together: less padding."""
        encoded = self.reader.plain([text + "\n" for text in texts])
        self.cut += sum(len(tokens) > self.window for tokens in encoded)
        encoded = [tokens[: self.window] for tokens in encoded]
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
        found: dict[int, Tensor] = {}
        parts = [order[start : start + PREFILLED] for start in range(0, len(order), PREFILLED)]
        idle = rounds(self.reader.lm, len(parts)) - len(parts)
        for rows in parts:
            found |= zip(rows, self._together([encoded[row] for row in rows]), strict=True)
        for _ in range(idle):
            self._together([[self.reader.stop]])  # other processes have more to prefill
        return [found[row] for row in range(len(encoded))]

    @torch.no_grad()
    def _together(self, encoded: Sequence[list[int]]) -> list[Float[Tensor, "2 layers G L D"]]:
        width = max(map(len, encoded))
        ids = torch.full((len(encoded), width), self.reader.stop)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        positions = torch.arange(width).expand(len(encoded), width) - self.window
        device = self.reader.device
        cache = DynamicCache()  # made without a configuration, it keeps every token of sliding layers too
        self.reader.lm.base_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
        )
        layers = [cache.layers[number] for number in range(self.first_layer, self.reader.layers)]
        keys = torch.stack([layer.keys for layer in layers])
        values = torch.stack([layer.values for layer in layers])
        states: Int[Tensor, "2 layers n G L D"] = torch.stack([keys, values])
        return [states[:, :, row, :, : len(tokens)].clone() for row, tokens in enumerate(encoded)]
