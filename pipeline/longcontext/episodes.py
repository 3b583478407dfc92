"""Texts that are read once, so that a choice of blocks costs only what it changes.

What a text leaves behind doesn't depend on what is asked of it: each layer keeps its first tokens (sinks) and
its last (the window) and, from `first_layer` on, all blocks between. A question and its answer run through
the lower layers once, whatever is fetched for them; the upper layers are replayed for every choice of blocks.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.running import Runner, through
from pipeline.longcontext.settings import Dsram
from pipeline.shapes import TokenIds


@dataclass(frozen=True, slots=True)
class Window:
    """What layers see without fetching, and from which layer on they can fetch."""

    first_layer: int
    sinks: int
    """First tokens of the text, whole blocks."""
    tokens: int
    """Last tokens of the text, whole blocks."""
    block: int

    @classmethod
    def of(cls, settings: Dsram) -> Self:
        """Return what DSRAM sees with these settings when a text of whole blocks was read."""
        tokens = -(-settings.window // settings.block) * settings.block
        return cls(settings.first_layer, settings.sinks, tokens, settings.block)


@dataclass(frozen=True, slots=True)
class Kept:
    """Keys or values that one layer kept of R texts, before rotation."""

    local: Float[Tensor, "R G L D"]
    """Of the sinks, then of the window."""
    blocks: Float[Tensor, "R N G T D"] | None
    """Of what can be fetched; None in the lower layers."""

    def fetched(self) -> Float[Tensor, "R N G T D"]:
        """Return those of what can be fetched, in an upper layer."""
        if self.blocks is None:
            raise ValueError("a lower layer keeps no blocks")
        return self.blocks

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


def joined(parts: list[Texts]) -> Texts:
    """Return texts that were read apart as those of one reading; the parts are used up."""

    def together(sides: list[list[Kept]]) -> list[Kept]:
        layers = []
        for layer in range(len(sides[0])):
            kept = [side[layer] for side in sides]
            blocks = [one.blocks for one in kept if one.blocks is not None]
            local = torch.cat([one.local for one in kept])
            layers.append(Kept(local, torch.cat(blocks) if blocks else None))
            for side in sides:
                side[layer] = layers[-1]  # the parts are let go, layer by layer
        return layers

    states = torch.cat([part.states for part in parts])
    keys, values = together([part.keys for part in parts]), together([part.values for part in parts])
    return Texts(parts[0].window, keys, values, states)


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
        states = states[:, window.sinks : end].unflatten(1, (-1, window.block))  # type: ignore[no-untyped-call]

        def kept(parts: list[Tensor | None]) -> list[Kept]:
            found = []
            for layer, whole in enumerate(parts):
                assert whole is not None
                blocks = None
                if layer >= window.first_layer:
                    blocks = whole[:, :, window.sinks : end].unflatten(2, (-1, window.block))  # type: ignore[no-untyped-call]
                    blocks = blocks.transpose(1, 2).contiguous()
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
    uneven = any(count % window.block for count in (ids.shape[1], window.tokens, window.sinks))
    if uneven or ids.shape[1] <= window.sinks + window.tokens:
        raise ValueError(
            f"a text of {ids.shape[1]} tokens must be whole blocks of {window.block} and longer than its "
            f"sinks and window, {window.sinks} and {window.tokens} tokens, whole blocks too"
        )
    reading = Reading(runner.layers, window)
    for start in range(0, ids.shape[1], runner.chunk):
        runner.step(ids[:, start : start + runner.chunk], reading, logits=0)
    return reading.texts()


class Replay(Context):
    """Shows questions the sinks, what is fetched for them and the window of the texts they are asked of.

    The question and its answer are one chunk. Positions are those of `Dsram`: as if what isn't fetched were
    not there.

    Args:
        texts: that were read.
        rows: the text of each question.
        chosen: blocks that are fetched, in any order; -1 for none.
        bias: nats added to the logits of a fetched block's tokens.
    """

    def __init__(
        self,
        texts: Texts,
        rows: Int[Tensor, " B"],
        chosen: Int[Tensor, "B K"],
        bias: Float[Tensor, "B K"] | None = None,
    ) -> None:
        chosen, order = chosen.sort(dim=1)  # -1 comes first, so what is fetched ends at the window
        self.texts, self.rows, self.chosen = texts, rows, chosen
        self.bias = None if bias is None else bias.gather(1, order)
        self._placed: dict[int, tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = {}

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        texts, width, chosen = self.texts, keys.shape[2], self.chosen.clamp(min=0)
        sinks, fetched, window = texts.keys[layer].seen(self.rows, chosen, texts.window.sinks)
        others = texts.values[layer].seen(self.rows, chosen, texts.window.sinks)
        keys, values = torch.cat([sinks, fetched, window, keys], 2), torch.cat([*others, values], 2)
        count = fetched.shape[2]
        if count not in self._placed:
            self._placed[count] = self._place(count, keys.shape[2], width, keys.device)
        positions, queries_at, mask, bias = self._placed[count]
        return Seen(keys, values, queries_at, positions, mask, bias)

    def _place(
        self, count: int, places: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return positions of keys and queries, who sees what, and the bias; `count` tokens are fetched."""
        positions = torch.arange(places, device=device)
        queries_at = positions[-width:]
        if not count:
            return positions, queries_at, None, None
        block, start = self.texts.window.block, self.texts.window.sinks
        absent = (self.chosen < 0).repeat_interleave(block, dim=1)
        positions = positions.repeat(len(absent), 1)
        positions[:, :start] += absent.sum(dim=1, keepdim=True)
        mask = torch.ones(width, places, dtype=torch.bool, device=device).tril(places - width)
        mask = mask.repeat(len(absent), 1, 1, 1)
        mask[..., start : start + count] &= ~absent[:, None, None]
        if self.bias is None:
            return positions, queries_at, mask, None
        bias = self.bias.repeat_interleave(block, dim=1)
        bias = F.pad(bias, (start, places - start - count))
        return positions, queries_at, mask, bias[:, None, None].expand(-1, 1, width, -1)

    def held(self) -> Held:
        """See `Context.held`."""
        return Held(0)


@torch.no_grad()
def asked(runner: Runner, texts: Texts, rows: Int[Tensor, " B"], ids: TokenIds) -> Float[Tensor, "B T C"]:
    """Return the states of questions and their answers that enter the first layer that can fetch."""
    context = Replay(texts, rows, rows.new_empty(len(rows), 0))
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
