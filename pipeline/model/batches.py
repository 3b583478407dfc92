"""What adapters are fitted with: the settings, the questions to learn from, and the batches drawn of them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Sampler

from pipeline.model.labels import Labels
from pipeline.model.retrieval import Retrieval
from pipeline.model.system import Example


@dataclass(frozen=True, kw_only=True)
class Train:
    """How adapters are fitted."""

    steps: dict[str, int]
    """Optimiser steps by method."""
    batch_size: int
    """Questions a step."""
    learning_rate: float
    """Highest learning rate of AdamW."""
    learning_rates: dict[str, float]
    """The same by method, where one has its own."""
    warmup: int
    """Steps in which the learning rate rises to it; then it falls to zero as a cosine."""
    weight_decay: float
    """Of AdamW."""
    gradient_clip: float
    """Largest norm of a step's gradient."""
    unanswerable: float
    """Share of a batch that no fact answers, for methods that can refuse."""
    human: float
    """Share of a batch that people wrote, where the data has such questions."""
    multihop: float
    """Share of a batch that asks for two facts in a row, for methods that can follow them."""
    checkpoint_every: int
    """Steps between checkpoints, from which a killed run goes on."""
    checkpoints: Path
    """Folder of checkpoints, outside the stage's output, keyed by configuration and inputs."""
    labels: Labels
    """What is known of the facts that answer."""
    retrieval: Retrieval
    """How the retrieval is trained before the reader."""

    def __post_init__(self) -> None:
        if not 0 <= self.unanswerable < 1 or not 0 <= self.human <= 1 or not 0 <= self.multihop < 1:
            raise ValueError(
                "train.unanswerable and train.multihop must be in [0, 1) and train.human in [0, 1]"
            )
        if self.batch_size < 1 or self.checkpoint_every < 1 or any(n < 1 for n in self.steps.values()):
            raise ValueError(
                "train.batch_size, checkpoint_every and every value of train.steps must be at least 1"
            )


@dataclass(frozen=True)
class Pool:
    """Training questions by kind, from which batches are drawn."""

    template: Sequence[Example]
    human: Sequence[Example]
    unanswerable: Sequence[Example]
    multihop: Sequence[Example] = ()

    def plain(self) -> "Pool":
        """Return the questions that one fact answers, for what learns from no others."""
        return Pool(self.template, self.human, [])


class Batches(Sampler[list[Example]]):
    """Batches of questions with fixed shares of each kind; batch number i depends on nothing but seed and i.

    Args:
        pool: where they come from.
        settings: shares and batch size.
        steps: number of batches.
        seed: of the draws.
        start: number of the first batch, where a run resumes.
    """

    def __init__(self, pool: Pool, settings: Train, steps: int, seed: int, start: int = 0) -> None:
        self.pool = pool
        self.settings = settings
        self.steps = steps
        self.seed = seed
        self.start = start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Example]]:
        for step in range(self.start, self.steps):
            draw = random.Random(f"{self.seed}/{step}")
            yield [draw.choice(self._kind(draw)) for _ in range(self.settings.batch_size)]

    def _kind(self, draw: random.Random) -> Sequence[Example]:
        if self.pool.unanswerable and draw.random() < self.settings.unanswerable:
            return self.pool.unanswerable
        if self.pool.multihop and draw.random() < self.settings.multihop:
            return self.pool.multihop
        human = draw.random() < self.settings.human if self.pool.human else False
        return self.pool.human if human or not self.pool.template else self.pool.template
