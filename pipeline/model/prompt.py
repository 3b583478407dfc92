"""Facts as text before the question, for a tuned reader: what all forms of RAG here share."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader
from pipeline.model.system import Example, Reply, System, gold_mask, share_right, with_gold
from pipeline.shapes import CandidateFacts, CandidateScores

PARTS = 2
"""Groups of prompts, by length, that a batch is answered in."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The reader that all methods share which read facts as text before the question."""

    projections: list[str]
    """Projections of all layers that get a low-rank change."""
    rank: int
    """r of the low-rank change."""
    rank_alpha: float
    """α of the low-rank change."""
    fact_tokens: int
    """A longer fact is cut in the prompt."""
    answer_tokens: int
    """Longest answer."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.answer_tokens < 1 or self.fact_tokens < 1:
            raise ValueError("method.rank, fact_tokens and answer_tokens must be at least 1")


def check_share(share: float) -> None:
    """Raise an error unless `method.refuse_answerable` can be `share`."""
    if not 0 <= share < 1:
        raise ValueError(f"method.refuse_answerable must be in [0, 1), not {share}")


class Ranked(NamedTuple):
    """What a search found for B questions."""

    facts: CandidateFacts
    """Best first, -1 where a question has fewer."""
    scores: CandidateScores
    """In nats, for the weights that are reported; the order is that of `facts`."""
    doubt: Float[Tensor, " B"]
    """Rises with how little the best fact fits."""


def filled(
    rows: Sequence[tuple[Sequence[int], Sequence[float]]], n: int, device: torch.device
) -> tuple[CandidateFacts, CandidateScores]:
    """Return facts with their scores, best first, as tables of n columns: -1 and -inf fill them up."""
    facts = torch.full((len(rows), n), -1)
    scores = torch.full((len(rows), n), -torch.inf)
    for row, (found, values) in enumerate(rows):
        facts[row, : len(found)] = torch.tensor(found, dtype=torch.long)
        scores[row, : len(found)] = torch.tensor(values)
    return facts.to(device), scores.to(device)


class PromptSystem(System):
    """A search and the tuned reader of what it finds, as an adapter; a method writes `found` alone.

    Args:
        method: the reader's values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts.
    """

    method: Prompt
    limit: float = torch.inf
    """Doubt above which a question is refused."""

    def __init__(self, method: Prompt, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        self.method = method
        self.lowrank = LowRank(reader.lm, method.projections, 0, method.rank, method.rank_alpha)
        self.to(reader.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the tuned reader inside this block."""
        with self.lowrank.attached(self.reader.lm):
            yield

    @abstractmethod
    def found(self, questions: Sequence[str]) -> Ranked:
        """Return the facts that fit each question best."""

    def learned_from(self, questions: Sequence[str]) -> CandidateFacts:
        """Return the facts that the reader is fitted to read, best first."""
        return self.found(questions).facts

    @property
    def shown(self) -> int:
        """Facts in the prompt, of those that were found."""
        return self.memory.settings.k

    def drawn(self) -> int:
        """Return how many facts stand in the prompts of one step of fitting."""
        return self.shown

    def refused(self, doubt: Float[Tensor, " B"]) -> list[bool]:
        """Return which questions are not answered; without a limit, none."""
        return (doubt > self.limit).tolist()

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L_LM over the answerable questions, each behind its k retrieved facts, gold among them.

        Where no gold fact is known, only what was found is read.
        """
        answerable = [example for example in batch if example.answers]
        with torch.no_grad():
            found = self.learned_from([example.text for example in answerable])
        best = with_gold(found[:, : self.drawn()], answerable)
        read = [[fact for fact in row if fact >= 0] for row in best.tolist()]
        targets = [self.target(example, facts) for example, facts in zip(answerable, read, strict=True)]
        tokens = self.reader.tokens([e.text for e in answerable], targets, [self._shown(row) for row in read])
        loss = self.reader.loss(tokens)
        right = gold_mask(found[:, :1], answerable)[[bool(example.gold) for example in answerable]]
        return {"loss": loss, "lm_loss": loss.detach(), "retrieval_accuracy": share_right(right)}

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n facts that fit best, best first."""
        return self.found(questions).facts[:, :n]

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, the facts in the prompt and the doubt; a refused question isn't read."""
        found = self.found(questions)
        refused = self.refused(found.doubt)
        k = min(self.shown, found.facts.shape[1])
        weights = torch.softmax(found.scores[:, :k], dim=-1).nan_to_num()
        read = [[fact for fact in row if fact >= 0] for row in found.facts[:, :k].tolist()]
        texts = [""] * len(questions)
        rows = [row for row, no in enumerate(refused) if not no]
        if rows:
            said = self._said([questions[row] for row in rows], [self._shown(read[row]) for row in rows])
            for row, text in zip(rows, said, strict=True):
                texts[row] = text
        return Reply(
            texts,
            read,
            [row[: len(facts)] for row, facts in zip(weights.tolist(), read, strict=True)],
            [[fact for fact in row if fact >= 0] for row in found.facts.tolist()],
            found.doubt.tolist(),
            refused,
        )

    @torch.no_grad()
    def surprise(
        self, questions: Sequence[str], answers: Sequence[str], read: Sequence[Sequence[int]]
    ) -> Float[Tensor, " B"]:
        """Return how much the answers surprise, in nats, behind the facts `read`."""
        return self.reader.surprise(
            self.reader.tokens(questions, answers, [self._shown(row) for row in read])
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
        if not facts:
            return ""
        texts = [self.memory.text(fact) for fact in reversed(facts)]
        cut = self.reader.cut(texts, self.method.fact_tokens)
        return "".join(text + "\n" for text in cut)
