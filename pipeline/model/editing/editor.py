"""What every editor has in common: a language model in float32, and edits that can be undone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.model.closedbook import said
from pipeline.model.editing.places import Kept, down
from pipeline.model.editing.prompts import Row, contexts, rows
from pipeline.model.editing.request import Edit
from pipeline.model.reader import Reader
from pipeline.weights import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How an edited model is asked, and what its edits are worded with."""

    prompt: str
    """The closed-book prompt, with {question}: the edit is made in its last paragraph."""
    wordings: list[str]
    """Templates of questions that edits are made with, each with {noun} and {name}."""
    contexts: list[int]
    """Tokens of each written text that questions are put behind, beside none and the prompt's examples."""
    end: str
    """What is learned behind the target, so that the answer stops there; "" learns the target alone."""
    answer_tokens: int
    """Longest answer."""
    seed: int
    """Of the written texts."""

    def __post_init__(self) -> None:
        if self.prompt.count("{question}") != 1:
            raise ValueError(f"method.asking.prompt must hold {{question}} once, not {self.prompt!r}")
        for template in self.wordings or [""]:
            if template.count("{noun}") != 1 or template.count("{name}") != 1:
                raise ValueError(
                    f"method.asking.wordings must hold {{noun}} and {{name}} once in each, not {template!r}"
                )
        if self.answer_tokens < 1 or any(length < 1 for length in self.contexts):
            raise ValueError("method.asking.answer_tokens and contexts must be at least 1")


def editable(lm: LanguageModel) -> LanguageModel:
    """Return the language model in float32.

    An update is small beside the weights: rounded to the 8 bits of a bfloat16 it is mostly lost. It costs
    twice
    the memory of a bfloat16.
    """
    return replace(lm, dtype="float32")


class Editor(ABC):
    """Edits a language model in place.

    Args:
        reader: the language model, in float32.
        asking: how it is asked.
    """

    def __init__(self, reader: Reader, asking: Asking) -> None:
        self.reader = reader
        self.asking = asking

    @cached_property
    def before(self) -> list[str]:
        """What questions are put behind; written by the model that is not edited yet."""
        return contexts(self.reader, self.asking.prompt, self.asking.contexts, self.asking.seed)

    at_once: int = 1
    """Edits that are made together: a stream cut elsewhere than after so many would become another one."""

    @abstractmethod
    def apply(self, edits: Sequence[Edit]) -> None:
        """Edit the model, on top of what was edited before.

        Raises:
            UserError: an edit can't be made; the text names the fact.
        """

    @abstractmethod
    def undo(self) -> None:
        """Give the language model its own weights back, bit for bit."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """What is held beside the language model so that it can be given back, or be edited elsewhere."""

    @contextmanager
    def edited(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Let the model be edited inside this block alone."""
        try:
            self.apply(edits)
            yield
        finally:
            self.undo()

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Return what the model says now to each question, closed-book."""
        return said(self.reader, self.asking.prompt, questions, self.asking.answer_tokens)

    def rows(self, edits: Sequence[Edit], essence: bool) -> list[Row]:
        """Return the texts that `edits` are made with."""
        asking = self.asking
        return rows(self.reader, edits, asking.prompt, self.before, asking.end, essence)


class WeightEditor(Editor):
    """An editor that changes down projections.

    Args:
        reader: the language model, in float32.
        asking: how it is asked.
        layers: whose down projections change.
    """

    def __init__(self, reader: Reader, asking: Asking, layers: Sequence[int]) -> None:
        super().__init__(reader, asking)
        self.layers = list(layers)
        self._kept = Kept({f"layer {n}": down(reader.lm, n).weight for n in self.layers})

    def undo(self) -> None:
        """Give the language model its own weights back, bit for bit."""
        self._kept.restore()

    @property
    def bytes(self) -> int:
        """What the edited matrices take."""
        return self._kept.bytes
