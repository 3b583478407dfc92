"""Retrieval-augmented generation: exact search over slot keys, the best facts before the question."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.memory.facts import Query
from pipeline.model.prompt import Prompt, PromptSystem, Ranked


@dataclass(frozen=True, kw_only=True)
class Rag(Prompt):
    """A frozen encoder finds facts; a tuned reader finds the answer in them."""

    scale: float
    """Nats a unit of cosine, for the weights that are reported; the ranking doesn't depend on it."""


class RagSystem(PromptSystem):
    """The reader of `Rag` as an adapter; its memory has the slot layout, whatever the others use.

    It never refuses; its doubt is 1 - best cosine.
    """

    method: Rag

    def found(self, questions: Sequence[str]) -> Ranked:
        """Return the facts whose slot keys are nearest to the questions."""
        vectors = self.encoder.encode(questions)
        found = self.memory.search(Query(vectors * self.method.scale, vectors))
        doubt = 1.0 - found.scores[:, 0] / self.method.scale
        return Ranked(found.facts, found.scores, doubt.clamp(max=2.0))
