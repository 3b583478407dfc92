r"""What a question asks for, read from the language model's own early states: no encoder at question time.

For the entity and for the relation apart, the states h_t of the question's tokens after ℓ layers are pooled
by learned attention, several times, and mapped to the encoder's space, where the names of the memory are:

.. math:: x = W\,[\textstyle\sum_t a_{1t} g(h_t); \dots; \sum_t a_{nt} g(h_t)], \qquad
          a_j = \mathrm{softmax}_t(u_j \cdot h_t)

with a perceptron g. Then the retrieval heads go on as they do from an encoded question.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.memory.facts import Query
from pipeline.model.heads import RetrievalHeads
from pipeline.shapes import TokenMask, Vectors


class StatePool(nn.Module):
    """Pools the states of a question into one vector.

    Args:
        hidden: C.
        inner: width of g.
        dimension: P.
        pools: n, how often the states are pooled.
    """

    def __init__(self, hidden: int, inner: int, dimension: int, pools: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.Linear(hidden, pools, bias=False)
        self.inner = nn.Linear(hidden, inner)
        self.outer = nn.Linear(pools * inner, dimension)
        nn.init.zeros_(self.attention.weight)

    def forward(self, states: Float[Tensor, "B T C"], mask: TokenMask) -> Vectors:
        """Return x of each question; tokens whose mask is 0 are not seen."""
        states = self.norm(states)
        logits = self.attention(states).masked_fill(~mask[..., None], -torch.inf)
        pooled = torch.einsum(
            "btn,bti->bni", torch.softmax(logits, dim=1), nn.functional.gelu(self.inner(states))
        )
        x: Vectors = self.outer(pooled.flatten(1))
        return x


class StateHeads(RetrievalHeads):
    """The retrieval heads, from states in place of an encoded question.

    Args:
        hidden: C.
        pools: n of either pool.
        dimension: length P of a base vector.
        width: inner width of the perceptrons, g's included.
        entity_scale: e^τ_e at the start, in nats a unit of cosine.
        relation_scale: e^τ_r at the start.
        hops: 1, or 2.
    """

    def __init__(
        self,
        hidden: int,
        pools: int,
        dimension: int,
        width: int,
        entity_scale: float,
        relation_scale: float,
        hops: int = 1,
    ) -> None:
        super().__init__(dimension, width, entity_scale, relation_scale, hops)
        self.entity_pool = StatePool(hidden, width, dimension, pools)
        self.relation_pool = StatePool(hidden, width, dimension, pools)

    def ask(self, states: Float[Tensor, "B T C"], mask: TokenMask) -> Query:
        """Return the query of each question."""
        return self.query(self.entity_pool(states, mask), self.relation_pool(states, mask))
