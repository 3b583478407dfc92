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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.config import UserError
from pipeline.memory.tree import Found, Tree
from pipeline.model.attention import joint_mask, selected
from pipeline.model.knowledge import KnowledgeMaps, Read, pooled, relevance, scores, shares, streamed
from pipeline.model.lowrank import decoder_layers
from pipeline.model.sharding import whole

NAME = "sdpa_beside_facts"


@dataclass(frozen=True)
class Bank:
    """Facts as vectors: the key of their slot and the value of their tail."""

    ids: Int[Tensor, " M"]
    """Ids in the memory."""
    keys: Float[Tensor, "M P"]
    values: Float[Tensor, "M P"]


@dataclass(frozen=True)
class Pruning:
    """HiKVP: the facts that a layer reads are found anew by each row, layer and pass."""

    tree: Tree
    """Of the keys times their scale."""
    leaves: int
    """k_L: facts that are read."""


class FactsBeside:
    """What one batch of questions attends to beside its own tokens.

    Args:
        maps: W_K and W_V.
        queries: weight of q̃ of each layer that sees facts.
        bank: the facts.
        asks: tokens of the question, over which scores are pooled; padding and answers are none.
        grounding: which of the layers that see facts tells what is read.
        pooling: how heads and tokens are made one score, see `pooled`.
        block: facts that are looked at at a time.
        shift: nats that the facts' side is raised by.
        pruning: where only some facts are read.
        scale: 1/σ of each fact's key, where it is known already.
        shared: facts that the grounding layer selects once, for the question's tokens; all layers read those
            alone. 0 where each layer reads for itself.
    """

    def __init__(
        self,
        maps: KnowledgeMaps,
        queries: Sequence[Float[Tensor, "HD C"]],
        bank: Bank,
        asks: Bool[Tensor, "B T"],
        grounding: int,
        pooling: str,
        block: int,
        shift: float = 0.0,
        pruning: Pruning | None = None,
        scale: Float[Tensor, " M"] | None = None,
        shared: int = 0,
    ) -> None:
        self.maps, self.queries, self.bank = maps, queries, bank
        self.scale = maps.scale(bank.keys) if scale is None else scale
        self.asks, self.grounding, self.pooling, self.block = asks, grounding, pooling, block
        self.shift, self.pruning, self.shared = shift, pruning, shared
        self.hidden: Tensor | None = None
        self._asked: tuple[Float[Tensor, "B Q P"], Float[Tensor, "B Q"]] | None = None
        self._survivors: Found | None = None
        self._selected: Found | None = None

    def scores(self, bank: Bank | None = None) -> Float[Tensor, "B M"]:
        """Return the score of every fact at the grounding layer for the question's tokens, in nats.

        Args:
            bank: facts to score in place of those that are read.
        """
        assert self._asked is not None
        keys = (bank or self.bank).keys
        scale = self.maps.scale(keys) if bank else self.scale
        return relevance(*self._asked, keys, scale, self.pooling, self.block)

    def ranking(self, n: int) -> Found:
        """Return the best facts at the grounding layer, those that were pruned left out; n is cut to M."""
        if self._survivors is not None:
            return tuple(part[:, :n] for part in self._survivors)  # type: ignore[return-value]
        scores = self.scores()
        best, rows = scores.topk(min(n, scores.shape[1]), dim=-1)
        return best, rows

    def read(self, place: int) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
        """Return what a layer reads from the facts, and the log-sum of their exponentials."""
        assert self.hidden is not None
        hidden, (_, heads, width, _) = self.hidden.float(), self.maps.keys.shape
        query = F.linear(hidden, self.queries[place]).view(*hidden.shape[:2], heads, width).transpose(1, 2)
        folded = self.maps.fold(query, place)
        first = self._asked is None and place == self.grounding
        if first or (self.pruning and not self.shared):
            whole = hidden.shape[1] == self.asks.shape[1]
            tokens = (self.asks if whole else torch.ones_like(hidden[..., 0])).to(folded)
            weight = tokens.repeat(1, heads) / (heads * tokens.sum(dim=1, keepdim=True).clamp(min=1))
            asked = folded.flatten(1, 2), weight
        if first:
            self._asked = asked
        if self.shared:
            if first:
                self._selected = self._select()
            assert self._selected is not None, "layers below the grounding layer read nothing"
            found = self._chosen(folded, *self._selected)
            return self.maps.read(found.averaged, place), found.total
        if not self.pruning:
            found = streamed(folded, self.bank.keys, self.bank.values, self.scale, self.block)
            return self.maps.read(found.averaged, place), found.total
        survivors = self._descend(*asked)
        if first:
            self._survivors = survivors
        found = self._chosen(folded, *survivors)
        return self.maps.read(found.averaged, place), found.total

    def narrow(self, rows: Int[Tensor, " R"]) -> None:
        """Go on with some of the questions that are left; `scores` and `ranking` are still those of all."""
        if self._selected is not None:
            best, facts = self._selected
            self._selected = best[rows], facts[rows]

    @torch.no_grad()
    def _select(self) -> Found:
        """Return the facts that are read from the grounding layer on."""
        if not self.pruning:
            return self.ranking(self.shared)
        assert self._asked is not None
        self._survivors = self._descend(*self._asked)
        return self._survivors

    def _descend(self, queries: Float[Tensor, "B Q P"], weight: Float[Tensor, "B Q"]) -> Found:
        assert self.pruning is not None
        pool = partial(pooled, how=self.pooling)
        return self.pruning.tree.descend(queries, weight, self.pruning.leaves, pool)

    def _chosen(
        self, folded: Float[Tensor, "B H T P"], best: Float[Tensor, "B n"], rows: Int[Tensor, "B n"]
    ) -> Read:
        """Read the facts in `rows` alone, those with a score of -inf not at all."""
        logits = scores(folded, self.bank.keys[rows], self.scale[rows])
        logits = logits.masked_fill((best == -torch.inf)[:, None, None], -torch.inf)
        weight = torch.softmax(logits, dim=-1)
        averaged = torch.einsum("bhtm,bmp->bhtp", weight, self.bank.values[rows])
        return Read(averaged, logits.logsumexp(dim=-1))


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
        return whole(weight.detach())
    if hasattr(attention, "query_key_value"):
        fused: Tensor = attention.query_key_value.weight  # type: ignore[union-attr,assignment]
        return whole(fused.detach()).view(heads, 3, -1, fused.shape[-1])[:, 0].flatten(0, 1)
    raise UserError(
        f"{type(attention).__name__}: has neither q_proj nor query_key_value to start queries from"
    )


@contextmanager
def inject(lm: Any, every: int, first: int = 0) -> Iterator[None]:
    """Let every `every`-th layer of `lm` attend to facts inside this block; at the end it is as it was.

    The lowest `first` of those layers are left out.
    """
    modules = attentions(lm, every)[first:]
    handles = []
    try:
        for place, module in enumerate(modules):
            module._place_of_facts = place  # type: ignore[assignment]
            handles.append(module.register_forward_pre_hook(_keep, with_kwargs=True))
        with selected(lm, NAME, attend):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            del module._place_of_facts


def _keep(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Keep the states that an attention starts from."""
    facts = _ACTIVE.get()
    if facts is not None:
        facts.hidden = named["hidden_states"] if "hidden_states" in named else inputs[0]
