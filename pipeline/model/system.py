"""What every method on a language model has in common: frozen parts, losses to train, replies to give."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.reader import Reader
from pipeline.model.sharing import weighed
from pipeline.shapes import CandidateFacts


@dataclass(frozen=True, slots=True)
class Example:
    """A question to learn from."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    """Ids of the facts that training takes for its answer, in the memory: those that answer it, unless
    `pipeline.model.labels` says otherwise; none where it is unanswerable or nothing is told."""
    kind: str = "template"
    """Who wrote it: `template`, `human` …"""
    via: tuple[int, ...] = ()
    """Ids of the facts of the first hop, where it asks for two."""
    told: bool = True
    """Whether L_Aux learns from it; where not, only its answer is known, or that it has none."""
    right: tuple[int, ...] = ()
    """Ids of the facts that answer it, where `gold` doesn't tell: they only have a place in a sample of the
    memory, and nothing is learned from which question they belong to."""


@dataclass(frozen=True)
class Reply:
    """What a system says to B questions; fact ids are the memory's."""

    texts: list[str]
    facts: list[list[int]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    candidates: list[list[int]] = field(default_factory=list)
    refusal: list[float] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    via: list[list[int]] = field(default_factory=list)
    """The fact that led to each of `facts`, -1 for those that were asked for at once."""


class System(nn.Module, ABC):
    """An adapter on a frozen language model; its parameters are all that is trained and saved.

    Args:
        reader: the frozen language model, on the device that everything runs on.
        encoder: the frozen sentence encoder.
        memory: the facts.
        answer_tokens: longest answer.
    """

    def __init__(
        self, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory, answer_tokens: int
    ) -> None:
        super().__init__()
        self.reader = reader
        self.encoder = encoder
        self.memory = memory
        self.answer_tokens = answer_tokens

    fitted_before: ClassVar[tuple[str, ...]] = ()
    """Prefixes of parameters that are fitted before the reader, and only slowly along with it."""

    @property
    def learns_refusal(self) -> bool:
        """Whether questions that no fact answers are learned from."""
        return False

    @property
    def hops(self) -> int:
        """How many facts a question may lead over; where it is 2, such questions are learned from."""
        return 1

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the system to its language model inside this block; `losses` and `reply` need it."""
        yield

    @abstractmethod
    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return `loss`, which is to be minimised, and what the training curve shows beside it."""

    @abstractmethod
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return the answers to a batch of questions."""

    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n facts that fit each question best, best first, without an answer."""
        raise NotImplementedError(f"{type(self).__name__} finds no facts")

    def forget(self) -> None:
        """Drop what is kept to save time, so that what follows doesn't depend on batches gone by."""

    def target(self, example: Example, facts: Sequence[int]) -> str:
        """Return the answer to learn: the tail of the first gold fact among those read, or any right one.

        A gold fact by mistake has a wrong tail, which is never learned. The answer begins with a space, as
        names in facts do, so that copying a name is copying its tokens: without, " Bahamas" has to be spelled
        anew as "B", "ah", "amas".
        """
        read = [self.memory.fact(fact).tail_label for fact in facts if fact in example.gold]
        if example.right:
            read = [tail for tail in read if tail in example.answers]
        return f" {read[0] if read else example.answers[0]}"


def with_gold(found: CandidateFacts, batch: Sequence[Example]) -> CandidateFacts:
    """Return the candidates with each question's first gold fact put last where none was found.

    Training only: a fact that was not found can't be learned from.
    """
    facts = found.clone()
    for row, example in enumerate(batch):
        if example.gold and not set(example.gold) & set(facts[row].tolist()):
            facts[row, -1] = example.gold[0]
    return facts


def gold_mask(facts: CandidateFacts, batch: Sequence[Example]) -> Bool[Tensor, "B N"]:
    """Return which candidates answer their question."""
    rows = [
        [fact in example.gold for fact in row] for row, example in zip(facts.tolist(), batch, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.bool, device=facts.device)


def share_right(right: Bool[Tensor, "R 1"]) -> Float[Tensor, ""]:
    """Return the share of questions that are right, 0 of none; of a shared batch, this process's part."""
    return weighed(right.float().mean() if len(right) else right.float().sum(), len(right))
