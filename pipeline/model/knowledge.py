r"""Attention from language-model states to facts of one vector each, computed in the space of the vectors.

Fact m has a base key b_k[m] and a base value b_v[m], both of P dimensions, from a frozen sentence encoder.
At a layer, head i maps them by W_K and W_V to keys and values of D dimensions; the query q̃ has a projection
of its own and no rotary embedding. KBLaM (arXiv 2410.10450, eq. 4) and AtlasKV (arXiv 2510.17934, eq. 5)
normalise W_K b_k[m] over all layers, heads and dimensions at once, without learned scale or shift. With w̄ the
mean row of W_K and C_K = W_K - 1 w̄ᵀ that is one number per key,

.. math:: \hat k[m] = C_K b_k[m] / \sigma[m], \qquad
          \sigma[m]^2 = b_k[m]^\top (C_K^\top C_K / n) b_k[m] + \epsilon

so that neither keys nor values of all facts are ever made:

.. math:: s[m] = \frac{(C_{K,i}^\top \tilde q_i) \cdot b_k[m]}{\sigma[m] \sqrt D}, \qquad
          y_i = W_{V,i} \sum_m a[m]\, b_v[m]

`streamed` reads any number of facts in blocks. `shares` then weighs what was read against the sequence. One
softmax over both (KBLaM) and two softmaxes, mixed by their sums of exponentials (AtlasKV), are the same: they
part only where facts were pruned. AtlasKV then weighs the survivors alone, KBLaM's shift counts all M.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-5
"""Added to the variance, as in torch's LayerNorm."""
POOLINGS = ("softmax", "mean")


class KnowledgeMaps(nn.Module):
    """W_K and W_V of every layer that sees facts.

    Args:
        base: P.
        layers: number of layers that see facts.
        heads: H, the query heads of each.
        width: D.
        normalised: whether keys are normalised.
    """

    def __init__(self, base: int, layers: int, heads: int, width: int, normalised: bool = True) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(layers, heads, width, base))
        self.values = nn.Parameter(torch.empty(layers, heads, width, base))
        self.normalised = normalised
        for weight in (self.keys, self.values):
            nn.init.normal_(weight, std=base**-0.5)

    def centred(self) -> Float[Tensor, "layers H D P"]:
        """Return C_K, or W_K itself where keys are not normalised."""
        if not self.normalised:
            return self.keys
        return self.keys - self.keys.mean(dim=(0, 1, 2), keepdim=True)

    def scale(self, keys: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
        """Return 1/σ of each base key; ones where keys are not normalised."""
        if not self.normalised:
            return torch.ones(len(keys), dtype=keys.dtype, device=keys.device)
        weight = self.centred().flatten(0, 2)
        spread = weight.T @ weight / len(weight)
        variance = torch.einsum("mp,pq,mq->m", keys, spread, keys)
        return (variance + EPSILON).rsqrt()

    def fold(self, query: Float[Tensor, "B H T D"], layer: int) -> Float[Tensor, "B H T P"]:
        """Return the queries of a layer in the space of the base keys, 1/√D included."""
        return torch.einsum("bhtd,hdp->bhtp", query, self.centred()[layer]) / math.sqrt(query.shape[-1])

    def read(self, averaged: Float[Tensor, "B H T P"], layer: int) -> Float[Tensor, "B H T D"]:
        """Return W_V of base values that were averaged before."""
        return torch.einsum("bhtp,hdp->bhtd", averaged, self.values[layer])


def scores(
    folded: Float[Tensor, "B H T P"], keys: Float[Tensor, "*B M P"], scale: Float[Tensor, "*B M"]
) -> Float[Tensor, "B H T M"]:
    """Return s[m] of every fact, in nats.

    Args:
        folded: queries in the space of the keys.
        keys: base keys, the same for the batch or a row's own.
        scale: 1/σ of each.
    """
    if keys.ndim == 2:
        return torch.einsum("bhtp,mp->bhtm", folded, keys) * scale
    return torch.einsum("bhtp,bmp->bhtm", folded, keys) * scale[:, None, None]


def size_shift(count: int, weight: float) -> float:
    """Return KBLaM's shift log C - log M, in nats.

    Args:
        count: M, the number of facts.
        weight: C (KBLaM: 100).
    """
    return math.log(weight) - math.log(max(1, count))


class Read(NamedTuple):
    """What a layer finds in the facts alone."""

    averaged: Float[Tensor, "B H T P"]
    """Σ a[m] b_v[m] with the softmax a over the facts; zeros where there is none."""
    total: Float[Tensor, "B H T"]
    """log Σ e^s, from which the share of the facts beside a sequence follows; -inf where there is none."""


def streamed(
    folded: Float[Tensor, "B H T P"],
    keys: Float[Tensor, "M P"],
    values: Float[Tensor, "M P"],
    scale: Float[Tensor, " M"],
    block: int,
) -> Read:
    """Read all facts, `block` at a time: the logits of all of them are never held at once.

    Args:
        folded: queries in the space of the keys.
        keys: base keys.
        values: base values.
        scale: 1/σ of each key.
        block: facts at a time.
    """
    highest = folded.new_full(folded.shape[:3], -torch.inf)
    total = torch.zeros_like(highest)
    averaged = torch.zeros_like(folded)
    for start in range(0, len(keys), block):
        part = slice(start, start + block)
        logits = scores(folded, keys[part], scale[part])
        above = torch.maximum(highest, logits.amax(dim=-1))
        kept = (highest - above).exp()
        weight = (logits - above[..., None]).exp()
        total = total * kept + weight.sum(dim=-1)
        averaged = averaged * kept[..., None] + torch.einsum("bhtm,mp->bhtp", weight, values[part])
        highest = above
    if not len(keys):
        return Read(averaged, highest)
    return Read(averaged / total[..., None], highest + total.log())


def pooled(logits: Float[Tensor, "B Q M"], weight: Float[Tensor, "B Q"], how: str) -> Float[Tensor, "B M"]:
    """Return one score a fact for all heads and tokens of a question.

    Args:
        logits: of the queries of heads and tokens.
        weight: of each query; a row sums to 1, padding has 0.
        how: `softmax`, the logarithm of the mean attention weight, as AtlasKV selects and measures;
            or `mean`, the mean logit, which one averaged query gives as well.
    """
    if how == "mean":
        return torch.einsum("bqm,bq->bm", logits, weight)
    return _mean(torch.log_softmax(logits, dim=-1), weight)


def relevance(
    queries: Float[Tensor, "B Q P"],
    weight: Float[Tensor, "B Q"],
    keys: Float[Tensor, "M P"],
    scale: Float[Tensor, " M"],
    how: str,
    block: int,
) -> Float[Tensor, "B M"]:
    """Return `pooled` scores of any number of facts, `block` at a time.

    Args:
        queries: folded, of heads and tokens.
        weight: of each query, as for `pooled`.
        keys: base keys.
        scale: 1/σ of each key.
        how: as for `pooled`.
        block: facts at a time.
    """
    if how == "mean":
        return torch.einsum("bqp,bq->bp", queries, weight) @ keys.T * scale
    parts = [slice(start, start + block) for start in range(0, len(keys), block)]
    totals = [(queries @ keys[part].T * scale[part]).logsumexp(dim=-1) for part in parts]
    total = torch.stack(totals).logsumexp(dim=0)[..., None]
    found = [_mean(queries @ keys[part].T * scale[part] - total, weight) for part in parts]
    return torch.cat(found, dim=-1)


def _mean(shares: Float[Tensor, "B Q M"], weight: Float[Tensor, "B Q"]) -> Float[Tensor, "B M"]:
    """Return the logarithm of the weighted mean of what `shares` are the logarithms of: none underflows."""
    return (shares + weight.log()[..., None]).logsumexp(dim=1)


def shares(
    sequence: Float[Tensor, "B H T"], facts: Float[Tensor, "B H T"], shift: float = 0.0
) -> Float[Tensor, "B H T"]:
    """Return λ_kg, the share of the facts beside the sequence, from the log-sums of exponentials of both.

    Args:
        sequence: log Σ e^seq of the sequence's logits.
        facts: `Read.total`.
        shift: nats that the facts are raised by: log C - log M when KBLaM answers, so that M facts together
            weigh about as much as C; 0 for AtlasKV.
    """
    return torch.sigmoid(facts + shift - sequence)
