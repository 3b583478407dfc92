"""Facts as the server shows them in JSON, and the ids that addresses and clients know them by."""

import base64
import binascii
import json
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.memory.dates import Period
from pipeline.memory.durable import DurableMemory
from pipeline.memory.facts import Fact, Key
from pipeline.memory.history import slot_state
from pipeline.memory.store import KnowledgeMemory
from pipeline.serve.refusals import Refusal

FRANCE = "WyJRMTQyIiwiUDM2IiwiUTkwIl0"
"""Id of the fact that examples show."""


class Shown(BaseModel):
    """What the server sends: nothing but the fields that it describes."""

    model_config = ConfigDict(extra="forbid")


class Named(Shown):
    """An entity or a relation."""

    key: str = Field(description="Its stable key.", examples=["Q142"])
    label: str = Field(description="Its name, plain text.", examples=["France"])


class ShownFact(Shown):
    """A fact with its names and dates."""

    id: str = Field(
        description="Names the fact in addresses: base64url, without padding, of the UTF-8 JSON array of its "
        "three keys. It stays over restarts and merges.",
        examples=[FRANCE],
    )
    head: Named = Field(description="What the fact is about.", examples=[{"key": "Q142", "label": "France"}])
    relation: Named = Field(description="What it says of it.", examples=[{"key": "P36", "label": "capital"}])
    tail: Named = Field(description="The value.", examples=[{"key": "Q90", "label": "Paris"}])
    text: str = Field(
        description="The sentence that the language model reads.",
        examples=["The capital of France is Paris."],
    )
    start: str = Field(
        description="First date that it holds on (year, month or day); empty where unknown.",
        examples=["0987"],
    )
    end: str = Field(description="Date from which on it holds no longer; empty where unknown.", examples=[""])
    source: str = Field(description="Who says so; empty where unknown.", examples=["wikidata"])


def fact_id(key: Key) -> str:
    """Return the id of a fact.

    >>> fact_id(("Q142", "P36", "Q90"))
    'WyJRMTQyIiwiUDM2IiwiUTkwIl0'
    """
    text = json.dumps(key, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def fact_key(known_by: str) -> Key:
    """Return the key of the fact with that id.

    Raises:
        Refusal: it is no id.
    """
    try:
        packed = known_by.encode("ascii")
        key = json.loads(base64.b64decode(packed + b"=" * (-len(packed) % 4), b"-_", validate=True))
        if isinstance(key, list) and len(key) == 3 and all(isinstance(part, str) for part in key):
            found = key[0], key[1], key[2]
            if fact_id(found) == known_by:
                return found
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise unknown(known_by)


def unknown(known_by: str) -> Refusal:
    """Return the refusal of an id that no fact has."""
    return Refusal(404, f"there is no fact with the id {known_by[:80]!r}", "id", "unknown_fact")


def shown(memory: KnowledgeMemory, row: int) -> dict[str, Any]:
    """Return the fields of `ShownFact` of a fact, with the dates that count now."""
    return fact_fields(memory.fact(row), memory.text(row))


def shown_at(memory: KnowledgeMemory, row: int, period: Period) -> dict[str, Any]:
    """Return the fields of `ShownFact` of a fact, with the dates of one of its periods."""
    dates = {"start": period.start, "end": period.end, "source": period.source}
    return shown(memory, row) | dates


def fact_fields(fact: Fact, text: str) -> dict[str, Any]:
    """Return the fields of `ShownFact` of a fact with its sentence."""
    return {
        "id": fact_id(fact.key),
        "head": {"key": fact.head, "label": fact.head_label},
        "relation": {"key": fact.relation, "label": fact.relation_noun},
        "tail": {"key": fact.tail, "label": fact.tail_label},
        "text": text,
        "start": fact.start,
        "end": fact.end,
        "source": fact.source,
    }


def slot_tag(memory: DurableMemory, head: str, relation: str) -> str:
    """Return the ETag of a slot: another one once any of its facts, or a date of them, has changed."""
    return _tag("slot", slot_state(memory, head, relation))


def fact_tag(memory: DurableMemory, row: int) -> str:
    """Return the ETag of a fact: another one once a date of it has changed, or whether it holds."""
    key = memory.key(row)
    return _tag("fact", [key, list(memory.periods(key)), memory.holds(row)])


def _tag(kind: str, state: Any) -> str:
    return f'"{sha256(json.dumps([kind, state]).encode()).hexdigest()[:32]}"'
