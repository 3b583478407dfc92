"""The routes of entities: found by what their names begin with, and shown with the facts around them."""

from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Query
from pydantic import Field

from pipeline.memory.durable import DurableMemory
from pipeline.memory.names import BLOCK, Names
from pipeline.memory.statements import LONGEST
from pipeline.serve.refusals import Refusal, responses
from pipeline.serve.requests import Given, Version
from pipeline.serve.service import Service
from pipeline.serve.shown import Named, Shown, ShownFact, shown

NAMES = 1 << 21
"""Names that are looked through; in a larger memory those behind are found by whole key or label alone."""
FACTS = 1 << 22
"""Facts whose tails are looked through for the facts that lead to an entity."""
RANKED = 1000
"""Names that hold the text of which the best are chosen."""


class EntitiesAsked(Given):
    """Which entities to list."""

    query: str = Field(
        description="What a word of the name begins with, or any part of it; also a whole key.",
        min_length=1,
        max_length=LONGEST,
        examples=["fran"],
    )
    n: int = Field(10, description="Entities at most.", ge=1, le=100, examples=[10])


class FactsWanted(Given):
    """How many facts to show."""

    n: int = Field(20, description="Facts of each direction at most.", ge=1, le=1000, examples=[20])


class Entities(Shown):
    """Entities."""

    entities: list[Named] = Field(description="Best match first.")


class Around(Shown):
    """Facts on one side of an entity."""

    count: int = Field(description="How many there are.", examples=[3])
    facts: list[ShownFact] = Field(description="The first of them.")


class Entity(Named):
    """An entity with the facts around it."""

    facts_out: Around = Field(description="Facts whose head it is.")
    facts_in: Around | None = Field(
        description="Facts whose tail it is; null where the memory is too large to look for them."
    )
    version: Version


def routes(service: Service) -> APIRouter:
    """Return the routes of entities."""
    router = APIRouter()
    found = Completion(service.memory)

    @router.get("/entities", tags=["entities"], responses=responses())
    def complete(asked: Annotated[EntitiesAsked, Query()]) -> Entities:
        """Return the entities whose names hold a text."""
        names = service.memory.entities
        with service.naming:
            rows = found.rows(asked.query, asked.n)
        return Entities(entities=[Named(key=names.keys[row], label=names.texts[row]) for row in rows])

    @router.get("/entities/{key:path}", tags=["entities"], responses=responses())
    def one(key: str, asked: Annotated[FactsWanted, Query()]) -> Entity:
        """Return an entity with the facts that it heads and those that lead to it."""
        memory = service.memory
        row = memory.entities.find(key)
        if row is None:
            raise Refusal(404, f"there is no entity with the key {key[:80]!r}", "key", "unknown_entity")
        with memory.still():
            version = memory.version
            out, into = memory.facts_of(row), memory.facts_to(row, FACTS)
            sides = [
                None if rows is None else Around(count=len(rows), facts=_some(memory, rows, asked.n))
                for rows in (out, into)
            ]
        label = memory.entities.texts[row]
        assert sides[0] is not None
        return Entity(key=key, label=label, facts_out=sides[0], facts_in=sides[1], version=version)

    return router


def _some(memory: DurableMemory, rows: list[int], n: int) -> Any:
    return [shown(memory, row) for row in sorted(rows)[:n]]


class Completion:
    """Finds entities by a part of their names; what the memory gets is taken in when next asked.

    Args:
        memory: gives the names.
    """

    def __init__(self, memory: DurableMemory) -> None:
        self._memory = memory
        self._of: Names | None = None
        self._seen = 0
        self._texts: list[pa.Array] = []

    def rows(self, text: str, n: int) -> list[int]:
        """Return the n entities whose names fit `text` best: as a whole, at their beginning, at a word's."""
        self._follow()
        wanted = " ".join(text.split()).lower()
        if not wanted:
            return []
        rows: list[int] = []
        known = self._memory.entities.find(text.strip())
        start = 0
        for block in self._texts:
            holding = pc.indices_nonzero(pc.match_substring(block, wanted)).to_pylist()
            rows += [start + place for place in holding[: RANKED - len(rows)]]
            start += len(block)
        texts = self._memory.entities.texts
        ranked = sorted(rows, key=lambda row: (_rank(texts[row].lower(), wanted), len(texts[row]), row))
        return list(dict.fromkeys([*([] if known is None else [known]), *ranked]))[:n]

    def _follow(self) -> None:
        names = self._memory.entities
        if self._of is not names and self._seen > len(names):
            self._seen, self._texts = 0, []
        self._of = names  # a merge puts the same names, with the same rows, into another object
        for start in range(self._seen, min(len(names), NAMES), BLOCK):
            texts = names.texts[start : min(start + BLOCK, len(names), NAMES)]
            self._texts.append(pc.utf8_lower(pa.array(texts, pa.string())))
            self._seen = start + len(texts)
        if len(self._texts) > BLOCKS:
            self._texts = [pa.concat_arrays(self._texts)]


BLOCKS = 64
"""Arrays of names that are joined to one when there are more."""


def _rank(label: str, wanted: str) -> int:
    """Return how well a name fits, 0 for best."""
    if label == wanted:
        return 0
    if label.startswith(wanted):
        return 1
    return 2 if f" {wanted}" in label else 3
