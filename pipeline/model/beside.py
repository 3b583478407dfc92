r"""Facts of one vector each beside the sequence: an attention function of the transformers library.

The library hands an attention function queries and keys, but not the states that they come from, and KBLaM's
query for facts has a projection of its own: a hook before each attention keeps its input. With the
log-sums of exponentials Z of both sides,

.. math:: y = (1 - \lambda) \operatorname{softmax}(q k^\top / \sqrt D)\, v + \lambda\, W_V \bar b_v, \qquad
          \lambda = \sigma(Z_{kg} + c - Z_{seq})

which is AtlasKV's mixture, and KBLaM's joint softmax with the shift c = log C - log M.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.config import UserError
from pipeline.memory.tree import Tree
from pipeline.model.attention import joint_mask
from pipeline.model.knowledge import KnowledgeMaps, Read, scores, shares, streamed
from pipeline.model.lowrank import decoder_layers

NAME = "sdpa_beside_facts"


class FactsBeside:
    """What one batch of questions attends to beside its own tokens.

    Args:
        maps: W_K and W_V.
        queries: weight of q̃ of each layer that sees facts.
        keys: base keys of the facts.
        values: their base values.
        asks: tokens of the question, over which `asked` is taken; padding and answers are none.
        shift: nats that the facts' side is raised by.
        block: facts that are read at a time.
        tree: of the keys times their scale, where facts are pruned; each row and layer prunes for itself.
        leaves: facts that are read then.
    """

    def __init__(
        self,
        maps: KnowledgeMaps,
        queries: Sequence[Float[Tensor, "HD C"]],
        keys: Float[Tensor, "M P"],
        values: Float[Tensor, "M P"],
        asks: Bool[Tensor, "B T"],
        shift: float = 0.0,
        block: int = 1 << 16,
        tree: Tree | None = None,
        leaves: int = 1,
    ) -> None:
        self.maps, self.queries = maps, queries
        self.keys, self.values, self.scale = keys, values, maps.scale(keys)
        self.asks, self.shift, self.block = asks, shift, block
        self.tree, self.leaves = tree, leaves
        self.asked: dict[int, Float[Tensor, "B P"]] = {}
        """Mean folded query of each layer over heads and the question's tokens, of the first pass."""
        self.hidden: Tensor | None = None

    def scores(self, place: int) -> Float[Tensor, "B M"]:
        """Return the mean score of every fact over heads and the question's tokens, in nats."""
        found: Tensor = self.asked[place] @ self.keys.T * self.scale
        return found

    def read(self, place: int) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
        """Return what a layer reads from the facts, and the log-sum of their exponentials."""
        assert self.hidden is not None
        hidden, (_, heads, width, _) = self.hidden.float(), self.maps.keys.shape
        query = F.linear(hidden, self.queries[place]).unflatten(-1, (heads, width)).transpose(1, 2)
        folded = self.maps.fold(query, place)
        whole = hidden.shape[1] == self.asks.shape[1]
        weight = (self.asks if whole else torch.ones_like(hidden[..., 0])).to(folded)
        asked = torch.einsum("bhtp,bt->bp", folded, weight) / (
            heads * weight.sum(dim=1, keepdim=True).clamp(min=1)
        )
        self.asked.setdefault(place, asked)
        found = self._pruned(folded, asked) if self.tree else self._all(folded)
        return self.maps.read(found.averaged, place), found.total

    def _all(self, folded: Float[Tensor, "B H T P"]) -> Read:
        return streamed(folded, self.keys, self.values, self.scale, self.block)

    def _pruned(self, folded: Float[Tensor, "B H T P"], asked: Float[Tensor, "B P"]) -> Read:
        assert self.tree is not None
        best, rows = self.tree.search(asked, self.leaves)
        logits = scores(folded, self.keys[rows], self.scale[rows])
        logits = logits.masked_fill((best == -torch.inf)[:, None, None], -torch.inf)
        weight = torch.softmax(logits, dim=-1)
        return Read(torch.einsum("bhtm,bmp->bhtp", weight, self.values[rows]), logits.logsumexp(dim=-1))


_ACTIVE: ContextVar[FactsBeside | None] = ContextVar("beside", default=None)


@contextmanager
def reading(facts: FactsBeside | None) -> Iterator[None]:
    """Let every injected model called inside attend to `facts`."""
    token = _ACTIVE.set(facts)
    try:
        yield
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
    """Attend to the sequence and, in the layers that see them, to the active facts.

    The signature is that of an attention function of the transformers library.
    """
    facts = _ACTIVE.get()
    place = getattr(module, "_place_of_facts", None)
    if facts is None or place is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    shared = query.shape[1] // key.shape[1]
    none = torch.zeros(len(query), 0, device=query.device)
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    logits = (query @ key.repeat_interleave(shared, dim=1).transpose(2, 3)).float() * scaling
    logits = logits + joint_mask(none, attention_mask, query, key.shape[2]).float()
    own = torch.softmax(logits, dim=-1) @ value.repeat_interleave(shared, dim=1).float()
    found, total = facts.read(place)
    share = shares(logits.logsumexp(dim=-1), total, facts.shift)[..., None]
    output = (1 - share) * own + share * found
    return output.to(query.dtype).transpose(1, 2).contiguous(), None


def attentions(lm: Any, every: int) -> list[nn.Module]:
    """Return the attention modules of every `every`-th layer, the first one included."""
    found = []
    for layer in list(decoder_layers(lm))[::every]:
        known = [module for module in layer.children() if hasattr(module, "layer_idx")]
        if not known:
            raise UserError(
                f"{type(lm).__name__}: found no attention in a layer, so no facts can stand beside it"
            )
        found.append(known[0])
    return found


def query_weight(attention: nn.Module, heads: int) -> Float[Tensor, "HD C"]:
    """Return the weight that makes queries of states, to start q̃ from.

    Raises:
        UserError: the attention has neither `q_proj` nor `query_key_value`.
    """
    if hasattr(attention, "q_proj"):
        weight: Tensor = attention.q_proj.weight  # type: ignore[union-attr,assignment]
        return weight.detach()
    if hasattr(attention, "query_key_value"):
        fused: Tensor = attention.query_key_value.weight  # type: ignore[union-attr,assignment]
        return fused.detach().unflatten(0, (heads, 3, -1))[:, 0].flatten(0, 1)
    raise UserError(
        f"{type(attention).__name__}: has neither q_proj nor query_key_value to start queries from"
    )


@contextmanager
def inject(lm: Any, every: int) -> Iterator[None]:
    """Let every `every`-th layer of `lm` attend to facts inside this block; at the end it is as it was."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    former = lm.config._attn_implementation
    lm.set_attn_implementation(NAME)
    modules = attentions(lm, every)
    handles = []
    try:
        for place, module in enumerate(modules):
            module._place_of_facts = place  # type: ignore[assignment]
            handles.append(module.register_forward_pre_hook(_keep, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            del module._place_of_facts
        lm.set_attn_implementation(former)


def _keep(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Keep the states that an attention starts from."""
    facts = _ACTIVE.get()
    if facts is not None:
        facts.hidden = named["hidden_states"] if "hidden_states" in named else inputs[0]
