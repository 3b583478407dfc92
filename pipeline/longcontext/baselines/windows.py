"""Sinks and the latest tokens, at positions that are counted inside what is kept (StreamingLLM).

Keys are kept before rotation, because a token's position changes when others leave.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.longcontext.context import Context, Held, Seen


class Tokens(NamedTuple):
    """Keys before rotation, and values."""

    keys: Float[Tensor, "B G S D"]
    values: Float[Tensor, "B G S D"]

    def cut(self, start: int, end: int | None = None) -> "Tokens":
        """Return the tokens from `start` to `end`, a view."""
        return Tokens(self.keys[:, :, start:end], self.values[:, :, start:end])

    def copied(self) -> "Tokens":
        """Return the same, without what they were cut from."""
        return Tokens(self.keys.clone(), self.values.clone())

    @property
    def length(self) -> int:
        """Number of tokens, S."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes


class Fetched(NamedTuple):
    """What a chunk's queries see again of what had left the window."""

    tokens: Tokens
    """Stands between the sinks and the window."""
    turns: int
    """1 where all queries see it all; T where it holds as many parts and query t sees part t."""


def joined(*parts: Tokens) -> Tokens:
    """Return tokens one after the other."""
    return Tokens(*(torch.cat(part, dim=2) for part in zip(*parts, strict=True)))


class Windowed(Context):
    """The first tokens and the latest; what leaves the window goes to `left`, `fetched` may bring it back.

    Args:
        layers: of the model.
        sinks: first tokens that are kept.
        window: latest tokens that are kept between two chunks.
    """

    def __init__(self, layers: int, sinks: int, window: int) -> None:
        self.sinks, self.window = sinks, window
        self.tokens: list[Tokens | None] = [None] * layers
        self._placed: tuple[tuple[int, ...], Tensor, Tensor, Tensor | None] | None = None

    def leaving(self, latest: int) -> int:
        """Return how many of the latest tokens leave after a chunk."""
        return max(0, latest - self.window)

    def left(self, layer: int, tokens: Tokens) -> None:
        """Take what leaves the window, in the text's order."""

    def fetched(self, layer: int, queries: Float[Tensor, "B H T D"]) -> Fetched | None:
        """Return what a chunk's queries see again; it has the same length in all rows and heads."""
        return None

    def seen_again(self, layer: int, queries: Float[Tensor, "B H T D"]) -> None:
        """Take note of a chunk's queries, once what leaves has left."""

    def visible(self, back: Tensor) -> Bool[Tensor, "T S"]:
        """Return which of the latest tokens a query sees, by how far back they stand."""
        return (back >= 0) & (back <= self.window)

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        former, new = self.tokens[layer], Tokens(keys, values)
        kept = new if former is None else joined(former, new)
        sinks, latest = kept.cut(0, self.sinks), kept.cut(self.sinks)
        fetched = self.fetched(layer, queries)
        shown = kept if fetched is None else joined(sinks, fetched.tokens, latest)
        seen = self._seen(shown, sinks.length, fetched, new.length)
        leaving = self.leaving(latest.length)
        if leaving:
            self.left(layer, latest.cut(0, leaving))
            kept = joined(sinks, latest.cut(leaving))
        self.tokens[layer] = kept if leaving or former is not None else kept.copied()
        self.seen_again(layer, queries)
        return seen

    def _seen(self, shown: Tokens, sinks: int, fetched: Fetched | None, width: int) -> Seen:
        turns, again = (1, 0) if fetched is None else (fetched.turns, fetched.tokens.length)
        sizes = (shown.length, sinks, again, turns, width)
        if self._placed is None or self._placed[0] != sizes:
            self._placed = sizes, *self._placing(*sizes, shown.keys.device)
        _, positions, queries_at, mask = self._placed
        return Seen(shown.keys, shown.values, queries_at, positions, mask)

    def _placing(
        self, length: int, sinks: int, again: int, turns: int, width: int, device: torch.device
    ) -> tuple[Int[Tensor, " S"], Int[Tensor, " T"], Bool[Tensor, "1 1 T S"] | None]:
        """Return positions of keys and queries, and the mask: the same arrays for all layers of a step."""
        each = again // turns
        places = torch.arange(length - again, device=device)
        positions = torch.where(places < sinks, places, places + each)
        back = positions[-width:, None] - positions
        mask = torch.where(places < sinks, back >= 0, self.visible(back))
        if again:
            part = torch.arange(again, device=device)
            turn = torch.arange(width, device=device)[:, None] % turns
            inner = part // each == turn
            positions = torch.cat([positions[:sinks], sinks + part % each, positions[sinks:]])
            mask = torch.cat([mask[:, :sinks], inner, mask[:, sinks:]], dim=1)
        whole = None if width == 1 else mask[None, None]  # a single query sees all that is kept for it
        return positions, positions[-width:], whole

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(sum(tokens.nbytes for tokens in self.tokens if tokens is not None))


class StreamingLLM(Windowed):
    """Attention sinks and a rolling window (Xiao et al., arXiv 2309.17453).

    A query sees the sinks, the `window` tokens before it and itself; nothing else is kept, while the text is
    read too. Positions are counted inside the cache. Of the queries that are read at once only the first
    stands as near to the sinks as if it came alone: the others stand as much farther as they come later.
    """
