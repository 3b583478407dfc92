r"""From a question's vector to what it asks the memory for (our retrieval).

Two residual heads on the encoder's vector x of the question, one for the entity and one for the relation:

.. math:: q_e = e^{\tau_e}\,\overline{x + f_e(x)}, \qquad q_r = e^{\tau_r}\, W^\top \overline{x + f_r(x)}

with f two-layer perceptrons that start at zero and a bar for normalisation to length one. A fact scores
q_e·e_h + w·log softmax(q_r·R)_r: vectors belong to entities and relations, none to facts.

Questions over two hops have a third head f_s, for the relation that is asked of the first answer, and a logit
of none: w·log softmax([q_s·R; none]) is added to the score, that of none for a fact that answers by itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.facts import Candidates, Query
from pipeline.shapes import CandidateScores, Vectors


class Residual(nn.Module):
    """x ↦ (x + f(x)) / |x + f(x)| with a two-layer perceptron f that starts at zero."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension, width)
        self.outer = nn.Linear(width, dimension)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Vectors) -> Vectors:
        """Return unit vectors."""
        return F.normalize(x + self.outer(F.gelu(self.inner(x))), dim=-1)


class SecondHop(nn.Module):
    """The head of the relation that is asked of the first answer.

    Args:
        dimension: length P of a base vector.
        width: inner width of the perceptron.
        scale: nats a unit of cosine, at the start.
    """

    def __init__(self, dimension: int, width: int, scale: float) -> None:
        super().__init__()
        self.relation = Residual(dimension, width)
        self.map = nn.Parameter(torch.eye(dimension))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.stop = nn.Linear(dimension, 1)

    def forward(self, x: Vectors) -> tuple[Vectors, Float[Tensor, "B 1"]]:
        """Return what relations are compared with, and the logit of no second relation."""
        asked, scale = self.relation(x), self.log_scale.exp()
        return asked @ self.map * scale, self.stop(asked) * scale


class RetrievalHeads(nn.Module):
    """The entity head and the relation head, and that of the second hop where there are two.

    Args:
        dimension: length P of a base vector.
        width: inner width of the perceptrons.
        entity_scale: e^τ_e at the start, in nats a unit of cosine.
        relation_scale: e^τ_r at the start.
        hops: 1, or 2.
    """

    def __init__(
        self, dimension: int, width: int, entity_scale: float, relation_scale: float, hops: int = 1
    ) -> None:
        super().__init__()
        self.second = SecondHop(dimension, width, relation_scale) if hops == 2 else None
        self.entity = Residual(dimension, width)
        self.relation = Residual(dimension, width)
        self.map = nn.Parameter(torch.eye(dimension))
        self.entity_log_scale = nn.Parameter(torch.tensor(entity_scale).log())
        self.relation_log_scale = nn.Parameter(torch.tensor(relation_scale).log())

    def forward(self, text: Vectors) -> Query:
        """Return the query of each question."""
        return self.query(text, text)

    def query(self, entity: Vectors, relation: Vectors) -> Query:
        """Return the query of questions whose entity and relation are told by vectors of their own."""
        return Query(
            self.entity(entity) * self.entity_log_scale.exp(),
            self.relation(relation) @ self.map * self.relation_log_scale.exp(),
            *(self.second(relation) if self.second else (None, None)),
        )

    @torch.no_grad()
    def trust(self, share: float) -> None:
        """Move the relation head's weights to a share of the way from those that it started with.

        W_λ = (1 - λ)·W_0 + λ·W of its last layer and its map: 0 is the encoder's own similarity, 1 what was
        fitted (Wortsman et al. 2022, arXiv 2109.01903).
        """
        self.relation.outer.weight.mul_(share)
        self.relation.outer.bias.mul_(share)
        self.map.lerp_(torch.eye(len(self.map), device=self.map.device), 1 - share)

    @property
    def temperature(self) -> float:
        """What divides an entity's cosine: e^-τ_e."""
        return float((-self.entity_log_scale.detach()).exp())


class NullFact(nn.Module):
    """The score of "no fact answers this", beside the scores of the candidates.

    It is the best candidate's score plus a small perceptron of how well that candidate fits: its entity's
    cosine, its relation's log-probability, its lead over the second and its share of all candidates. Adding
    a constant to all scores thus changes no probability. Its inputs carry no gradient: refusing must not
    reshape the retrieval.

    `threshold` is the probability above which a question is refused; see `pipeline.model.retrieval`.

    Args:
        width: inner width of the perceptron.
        letters: how many figures about shared letters it is given besides.
    """

    threshold: Tensor

    def __init__(self, width: int, letters: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(4 + letters, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.constant_(self.outer.bias, -3.0)
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, scores: CandidateScores, features: Float[Tensor, "B F"]) -> Float[Tensor, "B 1"]:
        """Return the null fact's score in nats beside the candidates' `scores`, in any order."""
        best = scores.detach().max(dim=-1, keepdim=True).values.clamp(min=-1e4)
        return best + self.margin(features)

    def margin(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B 1"]:
        """Return how far the null fact stands above the best candidate, in nats."""
        margin: Tensor = self.outer(F.gelu(self.inner(features)))
        return margin

    @torch.no_grad()
    def features(
        self,
        scores: CandidateScores,
        found: Candidates,
        scale: Float[Tensor, ""],
        letters: Float[Tensor, "B O"] | None = None,
    ) -> Float[Tensor, "B F"]:
        """Return how well the best candidate fits, each feature of the order of one.

        Args:
            scores: of the candidates, in any order.
            found: the candidates with the parts of their scores, in the same order.
            scale: nats a unit of an entity's cosine.
            letters: figures about the letters that the question shares with names, where it is given such.
        """
        best, place = scores.max(dim=-1, keepdim=True)
        second = scores.scatter(1, place, -torch.inf).max(dim=-1, keepdim=True).values
        features = torch.cat(
            [
                found.entity.gather(1, place) / scale,
                found.relation.gather(1, place).clamp(min=-20.0) / 10.0,
                (best - second).clamp(max=20.0) / 10.0,
                best - scores.logsumexp(dim=-1, keepdim=True),
                *([] if letters is None else [letters]),
            ],
            dim=-1,
        )
        return features.nan_to_num(nan=-2.0, posinf=2.0, neginf=-2.0)


class StateCorrection(nn.Module):
    """A correction of a candidate's score from the language model's own early states.

    It is β/√P · (W h̄)·b_k with the mean state h̄ of the question's tokens and the candidate's base key
    b_k = e_h + r. W starts at zero; β is chosen on validation questions, zero included.
    """

    def __init__(self, hidden: int, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.map = nn.Linear(hidden, dimension, bias=False)
        nn.init.zeros_(self.map.weight)
        self.beta: Tensor
        self.register_buffer("beta", torch.tensor(0.0))

    def forward(self, states: Float[Tensor, "B C"], keys: Float[Tensor, "B N P"]) -> CandidateScores:
        """Return what is added to the candidates' scores when β is 1."""
        added: Tensor = torch.einsum("bp,bnp->bn", self.map(self.norm(states)), keys) / keys.shape[-1] ** 0.5
        return added
