"""Retrieval-augmented generation: exact search over slot keys, the best facts before the question."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader
from pipeline.model.system import Example, Reply, System, gold_mask, with_gold
from pipeline.shapes import CandidateFacts

PARTS = 2
"""Groups of prompts, by length, that a batch is answered in."""


@dataclass(frozen=True, kw_only=True)
class Rag:
    """A frozen encoder finds facts; a tuned reader finds the answer in them."""

    projections: list[str]
    """Projections of all layers that get a low-rank change."""
    rank: int
    """r of the low-rank change."""
    rank_alpha: float
    """α of the low-rank change."""
    scale: float
    """Nats a unit of cosine, for the weights that are reported; the ranking doesn't depend on it."""
    fact_tokens: int
    """A longer fact is cut in the prompt."""
    answer_tokens: int
    """Longest answer."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.answer_tokens < 1 or self.fact_tokens < 1:
            raise ValueError("method.rank, fact_tokens and answer_tokens must be at least 1")


class RagSystem(System):
    """The reader of `Rag` as an adapter; its memory has the slot layout, whatever the others use.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts, in the slot layout.
    """

    def __init__(self, method: Rag, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        self.method = method
        self.lowrank = LowRank(reader.lm, method.projections, 0, method.rank, method.rank_alpha)
        self.to(reader.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the tuned reader inside this block."""
        with self.lowrank.attached(self.reader.lm):
            yield

    def _found(self, questions: Sequence[str]) -> Candidates:
        vectors = self.encoder.encode(questions)
        return self.memory.search(Query(vectors * self.method.scale, vectors))

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L_LM over the answerable questions, each behind its k retrieved facts, gold among them."""
        answerable = [example for example in batch if example.gold]
        found = self._found([example.text for example in answerable]).facts
        k = min(self.memory.settings.k, found.shape[1])
        best = with_gold(found[:, :k], answerable)
        read = [[fact for fact in row if fact >= 0] for row in best.tolist()]
        targets = [self.target(example, facts) for example, facts in zip(answerable, read, strict=True)]
        tokens = self.reader.tokens([e.text for e in answerable], targets, [self._shown(row) for row in read])
        loss = self.reader.loss(tokens)
        right = gold_mask(found[:, :1], answerable)
        return {"loss": loss, "lm_loss": loss.detach(), "retrieval_accuracy": right.float().mean()}

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n facts whose slot keys are nearest, best first."""
        return self._found(questions).facts[:, :n]

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers and the facts in the prompt; it never refuses, its doubt is 1 - best cosine."""
        found = self._found(questions)
        k = min(self.memory.settings.k, found.facts.shape[1])
        weights = torch.softmax(found.scores[:, :k], dim=-1)
        read = [[fact for fact in row if fact >= 0] for row in found.facts[:, :k].tolist()]
        return Reply(
            self._said(questions, [self._shown(row) for row in read]),
            read,
            [row[: len(facts)] for row, facts in zip(weights.tolist(), read, strict=True)],
            [[fact for fact in row if fact >= 0] for row in found.facts.tolist()],
            (1.0 - found.scores[:, 0] / self.method.scale).clamp(max=2.0).tolist(),
            [False] * len(questions),
        )

    def _said(self, questions: Sequence[str], shown: Sequence[str]) -> list[str]:
        """Return the answers; prompts alike in length go together, for padding costs as much as text."""
        lengths = [len(ids) for ids in self.reader.encode(shown)]
        order = sorted(range(len(questions)), key=lengths.__getitem__)
        size = max(1, -(-len(order) // PARTS))
        texts = [""] * len(order)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            prompts = self.reader.tokens([questions[i] for i in part], None, [shown[i] for i in part])
            answers = self.reader.generate(prompts, self.answer_tokens, same_start=True)
            for place, answer in zip(part, answers, strict=True):
                texts[place] = answer
        return texts

    def _shown(self, facts: Sequence[int]) -> str:
        """Return the facts as they stand in the prompt, the best one last, next to the question."""
        texts = [self.memory.text(fact) for fact in reversed(facts)]
        cut = self.reader.cut(texts, self.method.fact_tokens)
        return "".join(text + "\n" for text in cut)
