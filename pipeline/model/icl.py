"""In-context learning: every fact of the memory in the prompt, as far as the model's positions go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader
from pipeline.model.system import Example, Reply, System


@dataclass(frozen=True, kw_only=True)
class Icl:
    """All facts before the question; nothing is searched, nothing is trained."""

    tuned: bool
    """Whether the reader is that of `rag`, or the bare language model."""
    projections: list[str]
    """Of `rag`: projections of all layers that its low-rank change has."""
    rank: int
    """Of `rag`: r of the low-rank change."""
    rank_alpha: float
    """Of `rag`: α of the low-rank change."""
    fact_tokens: int
    """A longer fact is cut in the prompt."""
    answer_tokens: int
    """Longest answer."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.answer_tokens < 1 or self.fact_tokens < 1:
            raise ValueError("method.rank, fact_tokens and answer_tokens must be at least 1")


class IclSystem(System):
    """The reader of `rag`, or the bare one, behind all facts of the memory in the order of their ids.

    It can't tell which of the facts it read, so replies name none, and it never refuses.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: not used.
        memory: the facts.
    """

    def __init__(self, method: Icl, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        self.method = method
        self.lowrank = LowRank(reader.lm, method.projections, 0, method.rank, method.rank_alpha)
        self.to(reader.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the tuned reader inside this block."""
        with self.lowrank.attached(self.reader.lm):
            yield

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Refuse: it has the reader of `rag`, which is trained there."""
        raise NotImplementedError("icl is not trained: its reader is that of rag, or the bare model")

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return the answers.

        Raises:
            UserError: the facts with a question and its answer take more positions than the model has.
        """
        texts = [self.memory.text(row) for row in np.flatnonzero(self.memory.alive).tolist()]
        shown = "".join(text + "\n" for text in self.reader.cut(texts, self.method.fact_tokens))
        prompts = self.reader.tokens(questions, None, [shown] * len(questions))
        wanted = prompts.ids.shape[1] + self.answer_tokens
        positions = int(self.reader.lm.config.max_position_embeddings)
        if wanted > positions:
            raise UserError(
                f"icl: {len(texts):,} facts with a question and its answer take {wanted:,} tokens, but "
                f"{self.reader.settings.name} has {positions:,} positions; ask a memory of fewer facts"
            )
        said = self.reader.generate(prompts, self.answer_tokens, same_start=True)
        count = len(questions)
        none: list[list[int]] = [[] for _ in questions]
        return Reply(said, none, [[] for _ in questions], none, [0.0] * count, [False] * count)
