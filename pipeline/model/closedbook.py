"""The bare language model: what it answers without any fact."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.reader import Reader
from pipeline.model.system import Example, Reply, System


@dataclass(frozen=True, kw_only=True)
class ClosedBook:
    """The language model alone, told to answer in as few words as it can."""

    prompt: str
    """Form of the whole text, with {question}; examples in it show the model what an answer looks like."""
    answer_tokens: int
    """Longest answer."""

    def __post_init__(self) -> None:
        if self.prompt.count("{question}") != 1 or "{facts}" in self.prompt:
            raise ValueError(
                f"method.prompt must hold {{question}} once and no {{facts}}, not {self.prompt!r}"
            )
        if self.answer_tokens < 1:
            raise ValueError(f"method.answer_tokens must be at least 1, not {self.answer_tokens}")


class ClosedBookSystem(System):
    """Asks the frozen language model; there is nothing to train.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: not used.
        memory: not used.
    """

    def __init__(
        self, method: ClosedBook, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory
    ) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        self.method = method
        self._said: dict[str, str] = {}  # no change of the memory reaches what it says

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Refuse: nothing of this method can be trained."""
        raise NotImplementedError("closed_book has no parameters")

    def forget(self) -> None:
        """Drop what was said."""
        self._said.clear()

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return what the model says, up to the end of its first line."""
        fresh = [question for question in dict.fromkeys(questions) if question not in self._said]
        if fresh:
            lines = said(self.reader, self.method.prompt, fresh, self.answer_tokens)
            self._said.update(zip(fresh, lines, strict=True))
        none: list[list[int]] = [[] for _ in questions]
        texts = [self._said[question] for question in questions]
        return Reply(texts, none, [[] for _ in questions], none, [0.0] * len(texts), [False] * len(texts))


def said(reader: Reader, prompt: str, questions: Sequence[str], limit: int) -> list[str]:
    """Return what a language model alone says to each question, up to the end of its first line.

    Args:
        reader: the language model.
        prompt: form of the whole text, with {question}.
        questions: what is asked.
        limit: tokens of the longest answer.
    """
    answers = reader.generate(reader.tokens(questions, form=prompt), limit, one_line=True, same_start=True)
    return [answer.split("\n")[0].strip().removesuffix(".") for answer in answers]
