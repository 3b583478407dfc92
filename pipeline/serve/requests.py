"""What the routes of facts take and give, field by field."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.memory.statements import LONGEST
from pipeline.serve.session import LONGEST as QUESTION
from pipeline.serve.shown import FRANCE, Named, Shown, ShownFact

PAGE = 50
"""Facts that are listed by default."""
LAST = (1 << 63) - 1
"""Highest id that a memory's facts have in it."""

Version = Annotated[
    int,
    Field(
        description="Grows with every change of the memory; what an answer tells of is at least as new.",
        examples=[17],
    ),
]
Date = Annotated[
    str,
    Field(
        description="A date (year, month or day) to look at what held then; empty for now.",
        examples=["1950"],
        max_length=16,
        pattern=r"^(-?[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?)?$",
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Given(BaseModel):
    """What a client sends: nothing but the fields that are described."""

    model_config = ConfigDict(extra="forbid")


class AsOf(Given):
    """A date."""

    as_of: Date = ""


class FactsAsked(AsOf):
    """Which facts to list."""

    query: str | None = Field(
        None,
        description="A text: the facts that the model would find for it, best first.",
        examples=["capital of France"],
        min_length=1,
        max_length=QUESTION,
    )
    n: int = Field(10, description="Facts that a search lists at most.", ge=1, le=200, examples=[10])
    head: Name | None = Field(None, description="Key or label of the head.", examples=["France"])
    relation: Name | None = Field(None, description="Key or label of the relation.", examples=["capital"])
    cursor: int | None = Field(
        None,
        description="What `next` of the page before said; valid until the server is started anew.",
        ge=0,
        le=LAST,
        examples=[0],
    )
    limit: int = Field(PAGE, description="Facts a page at most.", ge=1, le=10000, examples=[PAGE])


class Scored(ShownFact):
    """A fact of a list."""

    score: float | None = Field(
        description="How well it fits the query, in nats; null where none was asked.", examples=[11.2]
    )


class Listed(Shown):
    """Facts."""

    facts: list[Scored] = Field(description="Best first, or in the order of writing.")
    next: int | None = Field(description="`cursor` of the next page; null on the last one.", examples=[51])
    version: Version


class OneFact(ShownFact):
    """A fact, and whether it holds."""

    holds: bool = Field(description="Whether it holds now.", examples=[True])
    version: Version


class Value(ShownFact):
    """A value of a slot, and one time that it holds for."""

    written: str = Field(
        description="Date on which the memory was told; empty where nothing was recorded.",
        examples=["2026-01-01"],
    )
    holds: bool = Field(description="Whether this time holds the date that was asked for.", examples=[True])
    superseded_by: list[str] = Field(
        description="Ids of the values that begin on the day that this one ends.", examples=[[FRANCE]]
    )


class SlotHistory(Shown):
    """What a slot has held, holds and will hold."""

    head: Named = Field(description="The slot's head.")
    relation: Named = Field(description="The slot's relation.")
    values: list[Value] = Field(description="Earliest first; facts that were deleted are not among them.")
    version: Version


class Upsert(Given):
    """A fact to write."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"head": "France", "relation": "capital", "tail": "Paris"}]},
    )

    head: Name = Field(description="Key or label; a label that is new makes an entity.", examples=["France"])
    relation: Name = Field(
        description="Key or label; one that is new makes a relation.", examples=["capital"]
    )
    tail: Name = Field(description="Key or label; a label that is new makes an entity.", examples=["Paris"])
    start: str = Field(
        "",
        description="First date that it holds on: YYYY, YYYY-MM or YYYY-MM-DD; empty where unknown.",
        max_length=16,
        examples=["1960"],
    )
    end: str = Field(
        "",
        description="Date from which on it holds no longer; empty where unknown.",
        max_length=16,
        examples=[""],
    )
    source: str = Field("", description="Who says so.", max_length=LONGEST, examples=["gazette"])
    replace: bool = Field(
        True,
        description="Whether it supersedes the other facts of its slot, by the rules of docs/memory.md; else "
        "it stands beside them.",
        examples=[True],
    )


class Written(Shown):
    """What writing a fact did."""

    written: ShownFact = Field(description="The fact as it stands.")
    superseded: list[ShownFact] = Field(description="Facts of its slot that gave way.")
    notes: list[str] = Field(
        description="What was new, began, ended, or stands against it.", examples=[["new entity 'Lutetia'"]]
    )
    version: Version


class Deleted(Shown):
    """What was deleted."""

    deleted: ShownFact = Field(description="The fact as it stood.")
    version: Version
