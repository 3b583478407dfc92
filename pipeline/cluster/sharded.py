"""The knowledge memory over shards: asked and changed as one memory in this process is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.cluster.changing import Changing
from pipeline.cluster.messages import Told
from pipeline.cluster.searching import ShardedSearching
from pipeline.cluster.seeing import Seeing
from pipeline.cluster.seen import SeenLabels, SeenNames
from pipeline.cluster.shard import Shard
from pipeline.config import UserError
from pipeline.memory.dates import Periods
from pipeline.memory.dating import written
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Candidates, Fact, Key, Query, Receipt
from pipeline.memory.labels import Labels
from pipeline.memory.names import Names
from pipeline.memory.offsets import Rows
from pipeline.memory.settings import Memory
from pipeline.memory.standing import QUESTIONS
from pipeline.shapes import CandidateFacts


class ShardedMemory:
    """A memory in shards, one or more copies of each; see docs/cluster.md for what is guaranteed.

    Ids of facts, entities and relations are numbers of this process; what it has seen of the memory it keeps.

    Args:
        shards: all of them, in order.
        settings: layout and sizes of the search, which every shard was opened with.
        encoder: turns questions and the names of new things into vectors.
        folder: of this process, for what it keeps besides.
    """

    def __init__(
        self, shards: Sequence[Shard], settings: Memory, encoder: TextEncoder, folder: Path = Path()
    ) -> None:
        self.settings = settings
        self.encoder = encoder
        self.folder = folder
        self._seeing = Seeing(shards, encoder)
        self._date = ""
        self._writing = RLock()
        self._changing = Changing(self._seeing, settings)

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards, in order."""
        return self._seeing.shards

    @property
    def device(self) -> torch.device:
        """Where what is found is put."""
        return self.encoder.device

    @property
    def entities(self) -> SeenNames:
        """Entities by the numbers that they got as they were seen; others are asked for by their keys."""
        return self._seeing.entities

    @property
    def relations(self) -> Names:
        """All relations."""
        return self._seeing.relations

    @property
    def version(self) -> int:
        """A number that grows with every change."""
        return sum(self._changing.versions)

    @property
    def chronicle(self) -> Changing:
        """What knows the date that the memory stands at."""
        return self._changing

    def __len__(self) -> int:
        return sum(self._seeing.ask_all("size", self._date))

    def as_of(self, date: str) -> "ShardedMemory":
        """Return what held on a date by all that is known, to be looked up and searched, not changed.

        Other than a view of one memory it follows later changes.

        Raises:
            UserError: it is no date.
        """
        past = ShardedMemory.__new__(ShardedMemory)
        past.__dict__.update(self.__dict__)
        past._date = written(date)
        return past

    def search(self, query: Query, n: int | None = None) -> Candidates:
        """Return the n facts (by default N) that fit each question best.

        Raises:
            UserError: no copy of a shard answers.
        """
        wanted = n or self.settings.N
        if not len(query.key):
            return Candidates.none(0, wanted, self.device)
        near = Query(*(None if part is None else part.detach().cpu() for part in query))  # type: ignore[arg-type]
        searching = self._searching()
        starts = range(0, len(query.key), QUESTIONS)
        parts = [searching.search(near.rows(i, i + QUESTIONS), wanted) for i in starts]
        return Candidates(*(torch.cat(columns).to(self.device) for columns in zip(*parts, strict=True)))

    def _searching(self) -> ShardedSearching:
        return ShardedSearching(self._seeing, self.settings, len(self.shards), self._date)

    def _scoring(self, device: torch.device) -> ShardedSearching:
        searching = self._searching()
        searching.relations = searching.relations.to(device)
        return searching

    def score(self, query: Query, facts: CandidateFacts, via: CandidateFacts | None = None) -> Candidates:
        """Return given facts with their scores, with gradients into the query; -inf where the id is -1."""
        if not (facts >= 0).any():
            return Candidates.none(len(facts), facts.shape[1], self.device)
        return self._scoring(query.key.device).score(query, facts, via)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, the sum of the vectors of its head and relation; 0 for -1."""
        if not (facts >= 0).any():
            return torch.zeros(*facts.shape, self.encoder.dimension, device=self.device)
        return self._scoring(facts.device).keys(facts)

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the numbers of the heads, relations and tails of `facts`."""
        return self._seeing.columns(facts)

    def key(self, row: int) -> Key:
        """Return the stable key of the fact with the id `row`."""
        return self._seeing.key(row)

    def fact(self, row: int) -> Fact:
        """Return the fact with the id `row`, names included, and the dates that count now."""
        return self._seeing.fact(row, self._date)

    def some_fact(self) -> Fact:
        """Return a fact that holds; there must be one."""
        found = next(told for told in self._seeing.ask_all("some") if told is not None)
        return self.fact(self._seeing.see([found])[0])

    def text(self, row: int) -> str:
        """Return the fact as the sentence that a language model reads."""
        head, relation, tail = self._seeing.names(row)
        return f"The {relation} of {head} is {tail}."

    def told(self, rows: Sequence[int]) -> list[str]:
        """Return facts as sentences."""
        return list(map(self.text, rows))

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of the live fact with that stable key, or None."""
        found = self._known((head, relation, tail))
        return self._seeing.see([found[0]])[0] if found and found[1] else None

    def known(self, key: Key) -> int | None:
        """Return the id of a fact that holds or has a period, None where there is none with that key."""
        found = self._known(key)
        return self._seeing.see([found[0]])[0] if found else None

    def _known(self, key: Key) -> tuple[Told, bool] | None:
        [found] = self._seeing.ask_one(key[0], "known", [key])
        known: tuple[Told, bool] | None = found
        return known

    def holds(self, row: int) -> bool:
        """Return whether the fact with the id `row` holds."""
        found = self._known(self.key(row))
        return found is not None and found[1]

    def periods(self, key: Key) -> Periods:
        """Return when a fact holds."""
        found: Periods = self._seeing.ask_one(key[0], "periods", key)
        return found

    def recorded(self, head: str, relation: str) -> list[Key]:
        """Return the facts of a slot that hold or have a period."""
        found: list[Key] = self._seeing.ask_one(head, "recorded", head, relation)
        return found

    def facts_of(self, entity: int) -> list[int]:
        """Return the ids of the live facts whose head is `entity`."""
        head = self.entities.keys[entity]
        return self._seeing.see(self._seeing.ask_one(head, "facts_of", head, self._date))

    def facts_to(self, entity: int, most: int) -> list[int] | None:
        """Return None: facts are kept by their heads, and all shards would have to look at all of theirs."""
        return None

    def page(self, start: int, count: int) -> list[int]:
        """Refuse to list facts by their ids, which they get only as they are seen.

        Raises:
            UserError: always.
        """
        raise UserError("a memory in shards doesn't list all of its facts; ask for those of a head")

    def snapshot(self, folder: Path) -> None:
        """Refuse to write all facts to one folder.

        Raises:
            UserError: always; the text says where they are.
        """
        raise UserError(
            "a memory in shards isn't written to one folder; copy the folders of its shards, one copy of each"
        )

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the ids of the live facts of a slot."""
        keys = self.entities.keys[head], self.relations.keys[relation]
        return self._seeing.see(self._seeing.ask_one(keys[0], "slot", *keys, self._date))

    def counts(self, heads: Rows) -> Rows:
        """Return how many live facts each of `heads` heads."""
        keys = self._seeing.keys_of(heads.tolist())
        return np.array(self._seeing.ask_owners("counts", keys, keys, self._date), dtype=np.int64)

    def labels(self, kind: str, others: Mapping[str, str] | None = None) -> Labels:
        """Return what finds an `entity` or a `relation` by its name, `others` included."""
        names = self.entities if kind == "entity" else self.relations
        return SeenLabels(names, kind, self._seeing, others)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other thread of this process change the memory inside this block."""
        with self._writing:
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let no thread of this process change the memory inside this short block."""
        with self._writing:
            yield

    def upsert(
        self,
        facts: Sequence[Fact],
        replace: bool = False,
        progress: Progress | None = None,
        on: str = "",
    ) -> Receipt:
        """Add `facts` as one memory does; each is in the journals of all copies that count when this returns.

        Facts of one shard come whole or not at all. Those of several may come in part, if no copy of one of
        them is left in the middle of it.

        Raises:
            UserError: as `pipeline.memory.store.KnowledgeMemory.upsert`, and nothing is changed; or no copy
                of a shard answers.
        """
        with self._writing:
            self._check()
            return self._changing.upsert(facts, replace, progress, on)

    def delete(self, facts: Iterable[Key], on: str = "") -> Receipt:
        """Take back facts by stable key, as one memory does.

        Raises:
            UserError: a fact is not in the memory, and nothing is changed; or as `upsert`.
        """
        with self._writing:
            self._check()
            return self._changing.delete(list(dict.fromkeys(facts)), on)

    def advance(self, on: str = "") -> Receipt:
        """Let time go on to a date, in all shards.

        Raises:
            UserError: it is no date, or before the memory's; or no copy of a shard answers.
        """
        with self._writing:
            self._check()
            return self._changing.advance(on)

    def _check(self) -> None:
        if self._date:
            raise UserError(f"what held as of {self._date} can't be changed; change the memory that it is of")

    def mend(self) -> dict[int, list[int]]:
        """Let in copies that answer again, once they hold what the others do; return which, by shard."""
        return {shard.number: came for shard in self.shards if (came := shard.mend())}
