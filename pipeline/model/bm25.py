"""BM25: lexical search over the memory, the best facts before the question, the tuned reader of `rag`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.lexical import DOCUMENTS, LexicalIndex
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.prompt import Prompt, PromptSystem, Ranked, check_share, filled
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Bm25(Prompt):
    """Facts that share rare words with the question, in the prompt of `rag`'s reader."""

    documents: str
    """What is searched: `key` ("the r of h") or `fact` (its sentences)."""
    k1: float
    """How soon more of the same word counts no more."""
    b: float
    """How much longer documents count less, from 0 to 1."""
    refuse_answerable: float
    """Share of validation questions whose first fact answers that may be refused; 0 never refuses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.documents not in DOCUMENTS:
            known = ", ".join(DOCUMENTS)
            raise ValueError(f"method.documents must be one of {known}, not {self.documents!r}")
        check_share(self.refuse_answerable)
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(
                f"method.k1 must be at least 0 and method.b in [0, 1], not {self.k1} and {self.b}"
            )


class Bm25System(PromptSystem):
    """Lexical search in place of the encoder.

    Its doubt is the share of the question's weight, Σ idf of its words, that the best fact leaves out.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: not used.
        memory: the facts.
    """

    method: Bm25

    def __init__(self, method: Bm25, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(method, reader, encoder, memory)
        self.index = LexicalIndex(memory, method.documents, method.k1, method.b)

    def found(self, questions: Sequence[str]) -> Ranked:
        """Return the facts whose documents score best."""
        n = self.memory.settings.N
        rows = self.index.search(questions, n)
        facts, scores = filled(rows, n, self.reader.device)
        bounds = torch.tensor([self.index.bound(question) for question in questions], device=scores.device)
        doubt = 1.0 - scores[:, 0].clamp(min=0.0) / bounds.clamp(min=1e-6)
        return Ranked(facts, scores, doubt)
