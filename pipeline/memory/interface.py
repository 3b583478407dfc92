"""What a serving process asks of a memory, whether that is in this process or in the shards of a cluster."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.dates import Periods
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query, Receipt
from pipeline.memory.labels import Labels
from pipeline.memory.names import Names
from pipeline.memory.offsets import Rows
from pipeline.memory.settings import Memory
from pipeline.shapes import CandidateFacts


class Dated(Protocol):
    """What knows the date that a memory stands at."""

    @property
    def on(self) -> str:
        """The date; empty where nothing is dated."""
        ...


class Knowledge(Protocol):
    """A memory to be asked and changed; `pipeline.memory.store.KnowledgeMemory` says what each member does.

    Ids of facts, entities and relations hold in this process, stable keys everywhere.
    """

    settings: Memory
    encoder: TextEncoder

    @property
    def device(self) -> torch.device:
        """Where what is found is put."""
        ...

    @property
    def entities(self) -> Names:
        """Entities by their ids."""
        ...

    @property
    def relations(self) -> Names:
        """Relations by their ids."""
        ...

    @property
    def chronicle(self) -> Dated:
        """What knows the date that the memory stands at."""
        ...

    @property
    def version(self) -> int:
        """A number that grows with every change."""
        ...

    def __len__(self) -> int: ...

    def search(self, query: Query, n: int | None = None) -> Candidates:
        """Return the n facts that fit each question best."""
        ...

    def score(self, query: Query, facts: CandidateFacts, via: CandidateFacts | None = None) -> Candidates:
        """Return given facts with their scores."""
        ...

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact."""
        ...

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the ids of heads, relations and tails."""
        ...

    def counts(self, heads: Rows) -> Rows:
        """Return how many facts entities head."""
        ...

    def fact(self, row: int) -> Fact:
        """Return a fact."""
        ...

    def some_fact(self) -> Fact:
        """Return a fact that holds."""
        ...

    def key(self, row: int) -> Key:
        """Return the stable key of a fact."""
        ...

    def text(self, row: int) -> str:
        """Return a fact as a sentence."""
        ...

    def told(self, rows: Sequence[int]) -> list[str]:
        """Return facts as sentences."""
        ...

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of a fact that holds."""
        ...

    def known(self, key: Key) -> int | None:
        """Return the id of a fact that holds or has a period."""
        ...

    def holds(self, row: int) -> bool:
        """Return whether a fact holds."""
        ...

    def periods(self, key: Key) -> Periods:
        """Return when a fact holds."""
        ...

    def recorded(self, head: str, relation: str) -> list[Key]:
        """Return the facts of a slot that hold or have a period."""
        ...

    def facts_of(self, entity: int) -> list[int]:
        """Return the facts of a head."""
        ...

    def facts_to(self, entity: int, most: int) -> list[int] | None:
        """Return the facts with a tail, None where too many would have to be looked at."""
        ...

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the facts of a slot."""
        ...

    def page(self, start: int, count: int) -> list[int]:
        """Return some facts from an id on."""
        ...

    def labels(self, kind: str, others: Mapping[str, str] | None = None) -> Labels:
        """Return what finds entities or relations by their names."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Let no other thread change the memory."""
        ...

    def still(self) -> AbstractContextManager[None]:
        """Let the memory stay as it is."""
        ...

    def as_of(self, date: str) -> "Knowledge":
        """Return what held on a date."""
        ...

    def upsert(
        self,
        facts: Sequence[Fact],
        replace: bool = False,
        progress: Progress | None = None,
        on: str = "",
    ) -> Receipt:
        """Write facts."""
        ...

    def delete(self, facts: Iterable[Key], on: str = "") -> Receipt:
        """Take facts back."""
        ...

    def advance(self, on: str = "") -> Receipt:
        """Let time go on."""
        ...
