r"""Attention over the sequence and over the tokens of facts, in one softmax.

With question queries q, sequence keys k and values v, and the tokens j of selected facts m(j) with keys k̃,
values ṽ and log-probability s[m] of the fact among those selected:

.. math:: y = \sum_i a_i v_i + \sum_j \tilde a_j \tilde v_j, \quad
          (a, \tilde a) = \mathrm{softmax}(q k_i / \sqrt D,\; q \tilde k_j / \sqrt D + s[m(j)])

The shift makes a fact's share of the attention proportional to its probability (the joint softmax of KBLaM,
arXiv 2410.10450 eq. 4, with tokens as values in place of one vector and a learned shift in place of a
constant), so the order of the facts can't matter. Keys and values of a fact depend on nothing but its text.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_with_facts"


@dataclass(frozen=True)
class FactTokens:
    """The facts that a batch of questions reads.

    Args:
        keys: of every layer from `first_layer` on, tokens of all facts side by side.
        values: likewise.
        shift: log-probability of each token's fact; -inf where the token is padding.
        first_layer: the lowest layer that sees them.
    """

    keys: Float[Tensor, "layers B G J D"]
    values: Float[Tensor, "layers B G J D"]
    shift: Float[Tensor, "B J"]
    first_layer: int

    def of(self, rows: Int[Tensor, " R"]) -> "FactTokens":
        """Return what the questions `rows` of the batch read."""
        return FactTokens(self.keys[:, rows], self.values[:, rows], self.shift[rows], self.first_layer)


_ACTIVE: ContextVar[FactTokens | None] = ContextVar("facts", default=None)


@contextmanager
def reading(facts: FactTokens | None) -> Iterator[None]:
    """Let every injected model called inside read `facts`."""
    token = _ACTIVE.set(facts)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


@contextmanager
def narrowing() -> Iterator[Callable[[Int[Tensor, " R"]], None]]:
    """Give a function that goes on with some rows of the active facts; at the end all of them are back."""
    token = _ACTIVE.set(_ACTIVE.get())

    def narrow(rows: Int[Tensor, " R"]) -> None:
        facts = _ACTIVE.get()
        if facts is not None:
            _ACTIVE.set(facts.of(rows))

    try:
        yield narrow
    finally:
        _ACTIVE.reset(token)


def attend(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Attend to the sequence and, from the first reading layer on, to the active facts.

    The signature is that of an attention function of the transformers library.
    """
    facts = _ACTIVE.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if facts is None or layer < facts.first_layer:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    shared = query.shape[1] // key.shape[1]
    joined_keys = torch.cat([facts.keys[layer - facts.first_layer].to(key), key], dim=2)
    joined_values = torch.cat([facts.values[layer - facts.first_layer].to(value), value], dim=2)
    output = F.scaled_dot_product_attention(
        query,
        joined_keys.repeat_interleave(shared, dim=1),
        joined_values.repeat_interleave(shared, dim=1),
        attn_mask=joint_mask(facts.shift, attention_mask, query, key.shape[2]),
        scale=kwargs.get("scaling"),
        dropout_p=kwargs.get("dropout", 0.0),
    )
    return output.transpose(1, 2).contiguous(), None


def joint_mask(
    shift: Float[Tensor, "B J"], mask: Tensor | None, query: Float[Tensor, "B H T D"], length: int
) -> Float[Tensor, "B 1 T JS"]:
    """Return what is added to the logits of fact tokens and of the sequence, side by side.

    Args:
        shift: of the fact tokens.
        mask: of the sequence as the library hands it over: True (or 0) where a query sees a key, or None,
            which means plain causal attention.
        query: gives batch, number of queries and type.
        length: number S of keys of the sequence.
    """
    batch, _, queries, _ = query.shape
    if mask is None:
        seen = torch.ones(queries, length, dtype=torch.bool, device=query.device).tril(length - queries)
        mask = seen.expand(batch, 1, queries, length)
    if mask.dtype == torch.bool:
        hidden = torch.finfo(query.dtype).min
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, hidden)
    facts = shift.to(query.dtype)[:, None, None, :].expand(batch, 1, queries, -1)
    return torch.cat([facts, mask[..., :length].expand(batch, 1, queries, length)], dim=-1)


@contextmanager
def selected(lm: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let `lm` compute its attention by `function` inside this block; at the end it is as it was.

    The library's own registries select it; the mask goes with it, or left padding would be dropped silently.
    """
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    former = lm.config._attn_implementation
    lm.set_attn_implementation(name)
    try:
        yield
    finally:
        lm.set_attn_implementation(former)


@contextmanager
def inject(lm: Any) -> Iterator[None]:
    """Let `lm`, a decoder of the transformers library, read facts inside this block.

    The library's own registries select the attention; the model's classes stay as they are, and its former
    attention is selected again at the end. Without active facts the model computes what it did before.
    """
    with selected(lm, NAME, attend):
        yield
