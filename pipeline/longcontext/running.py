"""A frozen decoder that reads through a context: chunk by chunk, with positions of the context's choosing.

The transformers library rotates queries and keys before an attention function sees them. With every position
id at 0 that rotation is the identity, so the registered function below gets them unrotated, hands them to the
active context, and rotates what comes back to the positions that the context gives.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from pipeline.config import UserError
from pipeline.longcontext import attention
from pipeline.longcontext.context import Context
from pipeline.shapes import TokenIds

NAME = "sdpa_through_context"
REMEMBERED = 4
"""Arrays of positions whose angles are kept during a step: of keys and queries, below and above a layer."""


class Runner:
    """Reads texts and answers through a context.

    Rows of a batch have the same length: a text is cut or filled to it, so nothing is padded.

    Args:
        lm: a decoder of the transformers library with rotary positions, the same in every layer.
        chunk: tokens that are read at once, T.

    Raises:
        UserError: the model has no such positions.
    """

    def __init__(self, lm: Any, chunk: int) -> None:
        base = lm.base_model
        sliding = any("sliding" in kind for kind in getattr(lm.config, "layer_types", None) or [])
        if sliding or not hasattr(base, "rotary_emb") or not hasattr(base, "layers"):
            raise UserError(f"{type(lm).__name__}: longcontext needs rotary positions shared by all layers")
        self.lm, self.chunk = lm, chunk

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.lm.config.num_hidden_layers)

    @property
    def groups(self) -> int:
        """Number of key-value heads of a layer, G."""
        config = self.lm.config
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    @property
    def rotary(self) -> nn.Module:
        """The rotary embedding that all layers share."""
        rotary: nn.Module = self.lm.base_model.rotary_emb
        return rotary

    @property
    def window(self) -> int:
        """Positions that the model was trained on."""
        return int(self.lm.config.max_position_embeddings)

    def prompt(self, ids: TokenIds, context: Context, asked: int) -> Float[Tensor, "B V"]:
        """Read prompts whose last `asked` tokens hold the question; return the logits of what follows.

        Raises:
            ValueError: no token is left to ask with.
        """
        if not 0 < asked <= ids.shape[1]:
            raise ValueError(f"asked is {asked}, of prompts of {ids.shape[1]} tokens")
        text, question = ids[:, :-asked], ids[:, -asked:]
        context.asking = False
        for start in range(0, text.shape[1], self.chunk):
            self.step(text[:, start : start + self.chunk], context, logits=0)
        context.asking = True
        logits = self.step(question, context, logits=1)
        context.ready()
        return logits[:, -1]

    @torch.no_grad()
    def generate(self, ids: TokenIds, context: Context, asked: int, limit: int) -> Int[Tensor, "B A"]:
        """Return the `limit` most likely tokens, one after the other, that follow prompts."""
        best = self.prompt(ids, context, asked).argmax(dim=-1, keepdim=True)
        said = [best]
        for _ in range(limit - 1):
            best = self.step(best, context, logits=1)[:, -1].argmax(dim=-1, keepdim=True)
            said.append(best)
        return torch.cat(said, dim=1)

    def loss(self, logits: Float[Tensor, "B V"], answer: TokenIds, context: Context) -> Float[Tensor, " B"]:
        """Return the mean cross-entropy of the answers' tokens, in nats.

        Args:
            logits: of what follows the prompt, from `prompt`.
            answer: the right answers; -100 where a row has ended.
            context: what the prompt was read into.
        """
        following = self.step(answer[:, :-1].clamp(min=0), context, logits=answer.shape[1] - 1)
        logits = torch.cat([logits[:, None], following], dim=1).float()
        lost = F.cross_entropy(logits.transpose(1, 2), answer, ignore_index=-100, reduction="none")
        return lost.sum(dim=1) / (answer != -100).sum(dim=1)

    def step(self, ids: TokenIds, context: Context, logits: int) -> Float[Tensor, "B A V"]:
        """Let all layers read one chunk; return the logits of its last `logits` tokens."""
        ids = ids.to(self.lm.device, non_blocking=True)  # a long text stays where it is, chunks move
        with through(self.lm, context):
            states = self.lm.base_model(
                input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False
            ).last_hidden_state
        output: Tensor = self.lm.get_output_embeddings()(states[:, states.shape[1] - logits :])
        return output


class Rotation:
    """Cosines and sines of positions, computed once for all layers that are given the same positions.

    Args:
        rotary: the decoder's own embedding.
    """

    def __init__(self, rotary: nn.Module) -> None:
        self._rotary = rotary
        self._known: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=REMEMBERED)

    def turned(
        self, states: Float[Tensor, "B G S D"], positions: Int[Tensor, " S"] | Int[Tensor, "B S"]
    ) -> Float[Tensor, "B G S D"]:
        """Turn keys or queries to positions (RoPE, arXiv 2104.09864), in the library's pairs of halves."""
        for known, cosine, sine in self._known:
            if known is positions:
                return rotated(states, cosine, sine)
        cosine, sine = (
            part[:, None] for part in self._rotary(states, positions.view(-1, positions.shape[-1]))
        )
        self._known.append((positions, cosine, sine))
        return rotated(states, cosine, sine)


_ACTIVE: ContextVar[tuple[Context, Rotation]] = ContextVar("context")


@contextmanager
def through(lm: Any, context: Context) -> Iterator[None]:
    """Let `lm` attend through `context` inside this block; at the end it is as it was."""

    def observe(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        context.observe(inputs[0] if inputs else options["hidden_states"])

    former = lm.config._attn_implementation
    token = _ACTIVE.set((context, Rotation(lm.base_model.rotary_emb)))
    watched = None if context.watched is None else lm.base_model.layers[context.watched]
    handle = watched.register_forward_pre_hook(observe, with_kwargs=True) if watched is not None else None
    lm.set_attn_implementation(NAME)
    try:
        yield
    finally:
        lm.set_attn_implementation(former)
        if handle is not None:
            handle.remove()
        _ACTIVE.reset(token)


def rotated(
    states: Float[Tensor, "B G S D"], cosine: Float[Tensor, "#B 1 S R"], sine: Float[Tensor, "#B 1 S R"]
) -> Float[Tensor, "B G S D"]:
    """Turn the first R numbers of keys or queries by angles; the others stay."""
    turned, left = states[..., : cosine.shape[-1]], states[..., cosine.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([turned, left], dim=-1) if left.shape[-1] else turned


def attend(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T D"],
    attention_mask: None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Attend to what the active context shows; the signature is the transformers library's."""
    context, rotation = _ACTIVE.get()
    seen = context.read(int(module.layer_idx), query, key, value)  # type: ignore[arg-type]
    keys = seen.keys if seen.positions is None else rotation.turned(seen.keys, seen.positions)
    query = rotation.turned(query, seen.queries_at)
    output = attention.attend(query, keys, seen.values, seen.mask, seen.bias, kwargs.get("scaling"))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
