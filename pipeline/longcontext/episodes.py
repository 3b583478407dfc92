"""Texts that are read once, so that a choice of blocks costs only what it changes.

What a text leaves behind doesn't depend on what is asked of it: each layer keeps its first tokens (sinks) and
its last (the window) and, from `first_layer` on, all blocks between. A question and its answer run through
the lower layers once, whatever is fetched for them; the upper layers are replayed for every choice of blocks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.running import Runner, through
from pipeline.shapes import TokenIds


@dataclass(frozen=True, slots=True)
class Window:
    """What layers see without fetching, and from which layer on they can fetch."""

    first_layer: int
    sinks: int
    tokens: int
    """Last tokens of the text, a multiple of `block`."""
    block: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Keys or values that one layer kept of R texts, before rotation."""

    local: Float[Tensor, "R G L D"]
    """Of the sinks, then of the window."""
    blocks: Float[Tensor, "R N G T D"] | None
    """Of what can be fetched; None in the lower layers."""

    def seen(
        self, rows: Int[Tensor, " B"], chosen: Int[Tensor, "B K"], sinks: int
    ) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G F D"], Float[Tensor, "B G W D"]]:
        """Return those of the sinks, of the fetched blocks and of the window, for each of B questions."""
        local = self.local[rows]
        fetched = local[:, :, :0]
        if self.blocks is not None:
            fetched = self.blocks[rows[:, None], chosen].transpose(1, 2).flatten(2, 3)
        return local[:, :, :sinks], fetched, local[:, :, sinks:]


@dataclass(frozen=True, slots=True)
class Texts:
    """R texts of one length that were read once."""

    window: Window
    keys: list[Kept]
    values: list[Kept]
    states: Float[Tensor, "R N T C"]
    """Those that enter `first_layer`, of the blocks that can be fetched."""


class Reading(Context):
    """Reads texts through sinks and window, as DSRAM does while nothing is asked, and keeps all for replay.

    Args:
        layers: of the model.
        window: what is seen.
    """

    def __init__(self, layers: int, window: Window) -> None:
        self.watched = window.first_layer
        self.window = window
        self.states: list[Tensor] = []
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def observe(self, states: Float[Tensor, "B T C"]) -> None:
        """See `Context.observe`."""
        self.states.append(states)

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        seen = []
        for kept, new in ((self.keys, keys), (self.values, values)):
            former = kept[layer]
            former = new[:, :, :0] if former is None else former
            seen.append(torch.cat([self.local(former), new], dim=2))
            kept[layer] = torch.cat([former, new], dim=2)
        positions = torch.arange(seen[0].shape[2], device=keys.device)
        return Seen(seen[0], seen[1], positions[-keys.shape[2] :], positions)

    def local(self, whole: Float[Tensor, "B G S D"]) -> Float[Tensor, "B G L D"]:
        """Return the sinks and the window of all that was read."""
        sinks, end = self.window.sinks, whole.shape[2]
        window = whole[:, :, max(sinks, end - self.window.tokens) :]
        return torch.cat([whole[:, :, :sinks], window], dim=2)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(sum(part.nbytes for part in (*self.keys, *self.values) if part is not None))

    def texts(self) -> Texts:
        """Return what was read, cut into blocks."""
        window = self.window
        states = torch.cat(self.states, dim=1)
        end = states.shape[1] - window.tokens
        states = states[:, :end].unflatten(1, (-1, window.block))

        def kept(parts: list[Tensor | None]) -> list[Kept]:
            found = []
            for layer, whole in enumerate(parts):
                assert whole is not None
                blocks = None
                if layer >= window.first_layer:
                    blocks = whole[:, :, :end].unflatten(2, (-1, window.block)).transpose(1, 2).contiguous()
                found.append(Kept(self.local(whole), blocks))
                parts[layer] = None
            return found

        return Texts(window, kept(self.keys), kept(self.values), states)


@torch.no_grad()
def read(runner: Runner, ids: TokenIds, window: Window) -> Texts:
    """Read texts of one length, whose part before the window is whole blocks.

    Raises:
        ValueError: it isn't, or the window isn't.
    """
    if window.tokens % window.block or ids.shape[1] % window.block or ids.shape[1] <= window.tokens:
        raise ValueError(
            f"a text of {ids.shape[1]} tokens and a window of {window.tokens} must be whole blocks of "
            f"{window.block}, the text the longer of the two"
        )
    reading = Reading(runner.layers, window)
    for start in range(0, ids.shape[1], runner.chunk):
        runner.step(ids[:, start : start + runner.chunk], reading, logits=0)
    return reading.texts()


class Replay(Context):
    """Shows questions the sinks, what is fetched for them and the window of the texts they are asked of.

    The question and its answer are one chunk. Fetched blocks stand next to the window, so that a question for
    which fewer are fetched sees them where it would see them alone.

    Args:
        texts: that were read.
        rows: the text of each question.
        chosen: blocks that are fetched, in any order; -1 for none.
        slots: blocks that positions are kept for, at least K.
        bias: nats added to the logits of a fetched block's tokens.
    """

    def __init__(
        self,
        texts: Texts,
        rows: Int[Tensor, " B"],
        chosen: Int[Tensor, "B K"],
        slots: int,
        bias: Float[Tensor, "B K"] | None = None,
    ) -> None:
        chosen, order = chosen.sort(dim=1)  # -1 comes first, so what is fetched ends at the window
        self.texts, self.rows, self.chosen = texts, rows, chosen
        self.bias = None if bias is None else bias.gather(1, order)
        self.skipped = (slots - chosen.shape[1]) * texts.window.block

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        texts, width = self.texts, keys.shape[2]
        chosen = self.chosen.clamp(min=0)
        sinks, fetched, window = texts.keys[layer].seen(self.rows, chosen, texts.window.sinks)
        parts = texts.values[layer].seen(self.rows, chosen, texts.window.sinks)
        keys, values = torch.cat([sinks, fetched, window, keys], 2), torch.cat([*parts, values], 2)
        positions = torch.arange(keys.shape[2], device=keys.device)
        queries_at = positions[-width:]
        if not fetched.shape[2]:
            return Seen(keys, values, queries_at, positions)
        positions = torch.where(positions < sinks.shape[2], positions, positions + self.skipped)
        mask, bias = self._fetched(sinks.shape[2], keys.shape[2], width)
        return Seen(keys, values, positions[-width:], positions, mask, bias)

    def _fetched(self, start: int, places: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Return who sees what, and the bias, where blocks are fetched."""
        count = self.chosen.shape[1] * self.texts.window.block
        here = (self.chosen >= 0).repeat_interleave(self.texts.window.block, dim=1)
        mask = torch.ones(width, places, dtype=torch.bool, device=here.device).tril(places - width)
        mask = mask.expand(len(here), 1, width, places).clone()
        mask[:, :, :, start : start + count] &= here[:, None, None]
        if self.bias is None:
            return mask, None
        bias = self.bias.repeat_interleave(self.texts.window.block, dim=1)
        bias = torch.cat([bias.new_zeros(len(bias), start), bias], dim=1)
        bias = torch.nn.functional.pad(bias, (0, places - start - count))
        return mask, bias[:, None, None].expand(-1, 1, width, -1)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(0)


@torch.no_grad()
def asked(
    runner: Runner, texts: Texts, rows: Int[Tensor, " B"], ids: TokenIds
) -> Float[Tensor, "B T C"]:
    """Return the states of questions and their answers that enter the first layer that can fetch."""
    context = Replay(texts, rows, rows.new_empty(len(rows), 0), slots=0)
    states: Tensor = runner.lm.get_input_embeddings()(ids)
    return _layers(runner.lm, states, context, range(texts.window.first_layer))


def answered(
    runner: Runner, context: Replay, states: Float[Tensor, "B T C"], last: int
) -> Float[Tensor, "B A V"]:
    """Let the upper layers read questions and answers; return the logits of the last `last` tokens.

    Args:
        runner: of the model.
        context: what is fetched.
        states: of `asked`.
        last: A.
    """
    base = runner.lm.base_model
    states = _layers(runner.lm, states, context, range(context.texts.window.first_layer, runner.layers))
    norm = base.norm if hasattr(base, "norm") else base.final_layer_norm
    logits: Tensor = runner.lm.get_output_embeddings()(norm(states[:, -last:]))
    return logits


def _layers(lm: Any, states: Float[Tensor, "B T C"], context: Context, span: range) -> Float[Tensor, "B T C"]:
    zeros = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    turns = lm.base_model.rotary_emb(states, zeros)
    with through(lm, context):
        for layer in span:
            states = lm.base_model.layers[layer](states, position_embeddings=turns)
    return states
