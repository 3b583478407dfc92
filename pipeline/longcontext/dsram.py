"""DSRAM: what queries see of a long text is its beginning, a window, and blocks that a retriever picks.

    text:   | sinks |  older blocks: latents, in the ring or spilled  | window | chunk |
    seen:   | sinks |  picked blocks, in text order                   | window | chunk |   layers ≥ ℓ_r
            | sinks |                                                 | window | chunk |   layers < ℓ_r

Positions are given anew to what is seen, 0, 1, 2, …: however long the text, the decoder stays within the
positions that it was trained on. A chunk costs O(window + k·block) a token, and scoring O(n / block) once a
question, with k = O(log n) (`budget`).

Block j holds the tokens [block·j, block·(j + 1)). Its summary is made of the states that enter layer ℓ_r. A
question's last token, in the same layer, picks blocks for all layers from there on; they are fetched and
restored once, and serve until the answer's end or for `stride` tokens.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.longcontext import settings as sections
from pipeline.longcontext.cache import Ring
from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.latents import Latents
from pipeline.longcontext.lowrank import Bases
from pipeline.longcontext.selection import Retrieving, budget, picked_blocks
from pipeline.longcontext.spill import Spill
from pipeline.longcontext.summaries import Summaries
from pipeline.longcontext.window import Window


@dataclass(frozen=True)
class Shape:
    """A decoder's attention, as contexts must know it."""

    layers: int
    groups: int
    """KV heads of a layer, G."""
    size: int
    """Numbers of a head, D."""
    positions: int
    """Positions that the decoder was trained on."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the shape of a decoder of the transformers library, from its configuration."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.num_hidden_layers, groups, size, config.max_position_embeddings)


class Dsram(Context):
    """See the module.

    Blocks below sinks / block are always seen and never picked; the others are candidates once they have left
    the window. While a question is read and answered the window keeps its beginning and grows, by `room`
    tokens at most, so that nothing falls between it and the candidates.

    Args:
        settings: see there.
        shape: of the decoder.
        retriever: on `device`.
        bases: of the layers from `first_layer` on; None where both ranks are 0.
        device: where the decoder computes.

    Raises:
        ValueError: settings that don't fit the decoder or the bases.
    """

    def __init__(
        self,
        settings: sections.Dsram,
        shape: Shape,
        retriever: Retrieving,
        bases: Bases | None,
        device: torch.device | str,
    ) -> None:
        first = settings.first_layer
        if not 0 <= first < shape.layers:
            raise ValueError(f"first_layer is {first}, of a decoder of {shape.layers} layers")
        if bases is not None and bases.first != first:
            raise ValueError(f"first_layer is {first}; the bases are for layers from {bases.first} on")
        self.settings, self.shape, self.retriever = settings, shape, retriever
        self.watched: int = first
        self.selected: Int[Tensor, "B k"] | None = None
        """Blocks of the present selection in text order, -1 in front where a row has fewer; None without."""
        self._read = 0
        """Tokens that all layers have read."""
        self._start = settings.sinks
        """The first token behind the sinks that the window holds."""
        self._asked = False
        self._since = 0
        self._last: Float[Tensor, "B T C"] | None = None
        self._absent: Bool[Tensor, "B R"] | None = None
        self._leaving: list[tuple[Tensor, Tensor]] = []
        self._step: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        capacity = settings.window + settings.block + settings.room
        self._below = Window(first, settings.sinks, capacity)
        self._above = Window(shape.layers - first, settings.sinks, capacity)
        self._latents = Latents(
            bases,
            settings.rank_keys,
            settings.rank_values,
            settings.precision,
            settings.block,
            shape.groups,
            shape.size,
            device,
        )
        self._ring = Ring(settings.ring // settings.block, _spill(settings))
        self._summaries = Summaries(settings.block, retriever.summaries, settings.summary_precision)

    @property
    def retrieved_tokens(self) -> Int[Tensor, " B"]:
        """Tokens of the present selection's blocks, of each text."""
        if self.selected is None:
            raise ValueError("nothing was selected yet")
        return (self.selected >= 0).sum(dim=1) * self.settings.block

    @property
    def candidates(self) -> tuple[int, int]:
        """The oldest block that can be retrieved now, and the first behind the newest."""
        own = self.settings.sinks // self.settings.block
        return own + self._ring.oldest, own + self._ring.count

    def observe(self, states: Float[Tensor, "B T C"]) -> None:
        """See `Context.observe`."""
        if self._selects:
            self.select(states, budget(self.settings, self._read))
        elif not self.asking and self.settings.reading_k and self._last is not None:
            self.select(self._last, self.settings.reading_k)
        elif not self.asking:
            self._see(None)
        if self.settings.reading_k:
            self._last = states.clone()
        self._summaries.add(states, self.candidates[0])

    def select(self, states: Float[Tensor, "B T C"], most: int) -> None:
        """Pick up to `most` blocks by the states of tokens, and fetch them for all layers above.

        Args:
            states: of the tokens that ask, as they enter layer ℓ_r.
            most: blocks a row.
        """
        start, stop = self.candidates
        k = min(most, stop - start)
        if k <= 0:
            self._see(states.new_full((len(states), 0), -1, dtype=torch.long))
            return
        query = self.retriever.query(states)
        scores = self.retriever.scores(query, self._summaries.of(start, stop).to(query.dtype))
        self._see(picked_blocks(scores, k, self.settings.stop, start))

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        first, width = self.watched, keys.shape[2]
        filled = self._read - (self._start - self.settings.sinks)
        after = self._start_after(width)
        leaving = after - self._start
        if layer < first:
            window, place = self._below, layer
        else:
            window, place = self._above, layer - first
        seen_keys, seen_values = window.extend(place, keys, values, filled, leaving)
        if leaving and layer >= first:
            gone = slice(window.front + self.settings.sinks, window.front + self.settings.sinks + leaving)
            self._leaving.append((seen_keys[:, :, gone].clone(), seen_values[:, :, gone].clone()))
        if window.front not in self._step:
            self._step[window.front] = self._placed(window.front, filled + width, width, keys.device)
        positions, queries_at, mask = self._step[window.front]
        if layer == self.shape.layers - 1:
            self._finish(width, after)
        return Seen(seen_keys, seen_values, queries_at, positions, mask)

    def held(self) -> Held:
        """See `Context.held`."""
        ring = self._ring.held()
        own = self._below.nbytes + self._above.nbytes + self._summaries.nbytes
        own += sum(part.nbytes for part in (self._last, self.selected, self._absent) if part is not None)
        return Held(own + ring.device, ring.host, ring.disk)

    @property
    def _selects(self) -> bool:
        """Whether the present step picks blocks for a question or an answer."""
        return self.asking and (not self._asked or 0 < self.settings.stride <= self._since)

    def _since_after(self, width: int) -> int:
        """Return how many tokens will have been asked or said since the last selection, after this step."""
        return width + (0 if self._selects else self._since) if self.asking else 0

    def _start_after(self, width: int) -> int:
        """Return where the window begins after this step."""
        settings = self.settings
        held = self.asking and not 0 < settings.stride <= self._since_after(width)
        oldest = self._read + width - settings.window - (settings.room if held else 0)
        return max(self._start, oldest // settings.block * settings.block)

    def _see(self, picked: Int[Tensor, "B k"] | None) -> None:
        """Fetch blocks, of each text its own, and let the layers above see them, and no others."""
        self.selected, self._absent = picked, None
        if picked is None or not picked.shape[1]:
            self._above.front = 0
            return
        own = self.settings.sinks // self.settings.block
        rows = self._ring.gather((picked - own).clamp(min=-1))
        keys, values = self._latents.decode(rows, self._above.dtype)
        self._above.fill(keys, values)
        if bool((picked[:, 0] < 0).any()):
            self._absent = (picked < 0).repeat_interleave(self.settings.block, dim=1)

    def _placed(
        self, front: int, others: int, width: int, device: torch.device
    ) -> tuple[Int[Tensor, " S"] | Int[Tensor, "B S"], Int[Tensor, " T"], Bool[Tensor, "B 1 T S"] | None]:
        """Return the positions of what is seen and of the queries, and a mask where some rows see less.

        Args:
            front: retrieved tokens.
            others: tokens of sinks, window and chunk.
            width: tokens of the chunk, T.
            device: of what is returned.

        Raises:
            ValueError: there are more than the decoder has positions for.
        """
        if front + others > self.shape.positions:
            raise ValueError(
                f"a chunk of {width} tokens, a window of {others - width} and {front} retrieved exceed "
                f"the decoder's {self.shape.positions} positions: lower window, room, k_most or the chunk"
            )
        sinks = self.settings.sinks
        places = torch.arange(front + others, device=device)
        queries_at = places[-width:]
        if front:
            places = torch.cat([places[sinks : sinks + front], places[:sinks], places[sinks + front :]])
        if not front or self._absent is None:
            return places, queries_at, None
        rows = places.repeat(len(self._absent), 1)
        rows[:, front : front + sinks] += self._absent.sum(dim=1, keepdim=True)  # as without the absent ones
        mask = torch.ones(width, front + others, dtype=torch.bool, device=device).tril(front + others - width)
        mask = mask.repeat(len(self._absent), 1, 1, 1)
        mask[..., :front] &= ~self._absent[:, None, None]
        return rows, queries_at, mask

    def _finish(self, width: int, after: int) -> None:
        """Close a step: what left the window becomes latents, of all layers at once."""
        if self._leaving:
            keys, values = (torch.stack(part) for part in zip(*self._leaving, strict=True))
            self._ring.append(self._latents.encode(keys, values))
            self._leaving.clear()
        self._since, self._asked = self._since_after(width), self.asking
        self._read += width
        self._start = after
        self._step.clear()


def _spill(settings: sections.Dsram) -> Spill | None:
    if settings.spill == "none":
        return None
    return Spill(settings.host_bytes if settings.spill == "disk" else None, settings.folder)
