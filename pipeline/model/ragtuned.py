r"""Retrieval-augmented generation at its best: a tuned query, a reranker, refusal, k by validation.

The question's vector x goes through a residual head, and the slot keys b stay as they are, so that the memory
changes as freely as that of `rag`:

.. math:: s_b = e^{\tau}\, \overline{x + f(x)} \cdot b

or f = 0, whichever finds more of the validation questions' facts. The n best slots may be judged again by a
cross-encoder r (`pipeline.model.reranker`): s + β·r. β, k, the score that tells whether any fact answers, and
its threshold are chosen on validation questions too (`pipeline.model.tuning`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.heads import Residual
from pipeline.model.number import Number
from pipeline.model.prompt import PromptSystem, Ranked, check_share
from pipeline.model.rag import Rag
from pipeline.model.reader import Reader
from pipeline.model.reranker import Reranker, regrouped
from pipeline.shapes import CandidateFacts, Vectors

DOUBTS = ("cosine", "margin", "rerank")
"""What may tell that no fact answers: how far the best slot is, how little it leads the second one, and that
the reranker prefers none."""


@dataclass(frozen=True, kw_only=True)
class RagTuned(Rag):
    """RAG whose query, reranker, number of facts and refusals are learned from the same questions as ours."""

    head_width: int
    """Inner width of the query's residual head; 0 leaves the query as the frozen encoder has it."""
    ks: list[int]
    """Numbers of facts in the prompt: drawn while the reader is fitted, then one is chosen on validation.

    One number alone is taken as it is, whatever was chosen: `method.ks=[5]` asks an adapter with five facts.
    """
    refuse_answerable: float
    """Share of validation questions whose first fact answers that may be refused; 0 never refuses."""
    rerank: bool
    """Whether a cross-encoder judges the best slots again."""
    reranked: int
    """n: slots that it judges."""
    rerank_projections: list[str]
    """Projections of the encoder's layers that get a low-rank change for it."""
    rerank_first_layer: int
    """Lowest layer of the encoder that gets one."""
    rerank_rank: int
    """r of that change, with α = 2r."""
    rerank_width: int
    """Inner width of the perceptron on the pooled states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"method.ks must hold numbers from 1, not {self.ks}")
        check_share(self.refuse_answerable)
        if self.head_width < 0 or self.reranked < 2 or self.rerank_rank < 1 or self.rerank_width < 1:
            raise ValueError(
                "method.head_width must be at least 0, reranked at least 2, "
                "and rerank_rank and rerank_width at least 1"
            )


class QueryHead(nn.Module):
    """x ↦ e^τ · (x + f(x)) / |x + f(x)|, in nats a unit of cosine.

    Args:
        dimension: length P of a base vector.
        width: inner width of f; 0 leaves f out.
        scale: e^τ at the start.
    """

    tuned: Tensor

    def __init__(self, dimension: int, width: int, scale: float) -> None:
        super().__init__()
        self.residual = Residual(dimension, width) if width else None
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.register_buffer("tuned", torch.tensor(1.0 if width else 0.0))
        self._tuned = Number()

    def forward(self, x: Vectors) -> Query:
        """Return what the questions ask the memory for, by f where it is `tuned`."""
        asked = self.residual(x) if self.residual and self._tuned(self.tuned) else x
        return Query(asked * self.log_scale.exp(), x)


class RagTunedSystem(PromptSystem):
    """A tuned search and its reader as an adapter; its memory has the slot layout.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts, in the slot layout.
    """

    fitted_before: ClassVar[tuple[str, ...]] = ("query.", "reranker.")
    method: RagTuned
    beta: Tensor
    k: Tensor
    judge: Tensor
    threshold: Tensor

    def __init__(
        self, method: RagTuned, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory
    ) -> None:
        super().__init__(method, reader, encoder, memory)
        self.query = QueryHead(encoder.dimension, method.head_width, method.scale)
        own = (method.rerank_rank, 2.0 * method.rerank_rank, method.rerank_width)
        self.reranker = (
            Reranker(encoder, method.rerank_projections, method.rerank_first_layer, *own)
            if method.rerank
            else None
        )
        self.register_buffer("beta", torch.tensor(0.0))
        self.register_buffer("k", torch.tensor(memory.settings.k))
        self.register_buffer("judge", torch.tensor(0))
        self.register_buffer("threshold", torch.tensor(torch.inf))
        self._beta, self._k, self._judge, self._threshold = (Number() for _ in range(4))
        self.to(reader.device)

    @property
    def learns_refusal(self) -> bool:
        """Whether the reranker is there to learn it."""
        return self.reranker is not None

    @property
    def shown(self) -> int:
        """The only number there is, or the one that was chosen."""
        return self.method.ks[0] if len(self.method.ks) == 1 else int(self._k(self.k))

    def drawn(self) -> int:
        """Return one of the numbers that may be chosen."""
        return random.choice(self.method.ks)

    def candidates(self, questions: Sequence[str]) -> Candidates:
        """Return what the tuned query finds."""
        return self.memory.search(self.query(self.encoder.encode(questions)))

    def learned_from(self, questions: Sequence[str]) -> CandidateFacts:
        """Return what the tuned query finds: while the reader is fitted, nothing is reranked."""
        return self.candidates(questions).facts

    def found(self, questions: Sequence[str]) -> Ranked:
        """Return the facts whose slots fit best, with the doubt that was chosen."""
        found = self.candidates(questions)
        which = DOUBTS[int(self._judge(self.judge))]
        beta = self._beta(self.beta)
        place, keys = self.slots(found.facts)
        if self.reranker is None or (not beta and which != "rerank"):
            return Ranked(found.facts, found.scores, self.doubts(found, place)[which])
        told = self.judged(questions, keys)
        doubt = self.doubts(found, place, told)[which]
        scores = regrouped(found.scores, place, beta * told.clamp(min=-1e4))
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        return Ranked(found.facts.gather(1, order), scores, doubt)

    def doubts(
        self, found: Candidates, place: Int[Tensor, "B N"], told: Float[Tensor, "B S"] | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return how doubtful it is that any fact answers, by each of `DOUBTS` that can tell."""
        scale = self.query.log_scale.detach().exp()
        best = found.scores[:, 0]
        second = found.scores.masked_fill(place == 0, -torch.inf).max(dim=-1).values
        doubts = {
            "cosine": (1.0 - best / scale).clamp(max=2.0),
            "margin": (1.0 - (best - second) / scale).nan_to_num(nan=2.0).clamp(min=-2.0),
        }
        if told is not None and told.shape[1]:
            doubts["rerank"] = 1.0 - told.max(dim=-1).values.clamp(min=-1e4).sigmoid()
        return doubts

    def slots(self, facts: CandidateFacts) -> tuple[Int[Tensor, "B N"], list[list[str]]]:
        """Return which of the n best slots each fact is of, n for those of none, and the slots' keys."""
        heads, relations, _ = self.memory.columns(facts.clamp(min=0)).tolist()
        most, places, keys = self.method.reranked, [], []
        for row, pairs in zip(facts.tolist(), map(zip, heads, relations), strict=True):
            known: dict[tuple[int, int], int] = {}
            slots = [pair if fact >= 0 else None for fact, pair in zip(row, pairs, strict=True)]
            for slot in slots:
                if slot is not None and len(known) < most:
                    known.setdefault(slot, len(known))
            places.append([most if slot is None else known.get(slot, most) for slot in slots])
            keys.append([self.memory.slot_text(*slot) for slot in known])
        return torch.tensor(places, dtype=torch.long, device=facts.device).reshape(facts.shape), keys

    def judged(self, questions: Sequence[str], keys: Sequence[Sequence[str]]) -> Float[Tensor, "B S"]:
        """Return r of each question's slots, -inf where it has fewer."""
        assert self.reranker is not None
        asked = [q for q, row in zip(questions, keys, strict=True) for _ in row]
        flat = self.reranker(asked, [key for row in keys for key in row])
        places = [(row, column) for row, found in enumerate(keys) for column in range(len(found))]
        table = torch.full((len(keys), self.method.reranked), -torch.inf, device=flat.device)
        if not places:
            return table
        rows, columns = torch.tensor(places, device=flat.device).T
        return table.index_put((rows, columns), flat)

    def refused(self, doubt: Float[Tensor, " B"]) -> list[bool]:
        """Return which questions are doubted more than the threshold allows."""
        return (doubt > self._threshold(self.threshold)).tolist()
