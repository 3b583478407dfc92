"""Collects entities and facts while the packages are read, and finds what one package calls another's."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources import Triple
from pipeline.packages import Wheel

LETTERS = str.maketrans({"ð": "d", "đ": "d", "þ": "th", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "ı": "i"})
"""Letters that Unicode does not take apart into a plain one and a mark, and how they are spelled without."""


@dataclass(frozen=True, slots=True)
class Named:
    """An entity before labels are made distinct."""

    label: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    qualified: tuple[str, ...] = ()
    """Longer labels, the shortest first, for an entity that shares its label with another."""
    weight: int = 0
    """How well known it is (a city's population): the heaviest of one kind keeps the label that it shares."""


@dataclass
class Draft:
    """Entities and facts so far; facts are of every snapshot unless they are airports'."""

    named: dict[str, Named] = field(default_factory=dict)
    facts: list[Triple] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    """Keys of entities by kind, country code and plain name."""
    states: dict[str, str] = field(default_factory=dict)
    """State code of each city of the United States, by key."""

    def name(self, key: str, label: str, description: str = "", **more: Any) -> str:
        """Add or replace the entity `key`, and return `key`."""
        self.named[key] = Named(tidy(label), description, **more)
        return key

    def literal(self, text: str) -> str:
        """Return the key of the value `text`, which is no entity."""
        key = f"literal:{tidy(text)}"
        return key if key in self.named else self.name(key, text)

    def fact(self, head: str, relation: str, tail: str | None, source: str) -> None:
        """Add a fact unless its tail is unknown."""
        if tail is not None:
            self.facts.append(Triple(head, relation, tail, source=source))

    def value(self, head: str, relation: str, text: object, source: str) -> None:
        """Add a fact whose tail is a literal, unless that is empty."""
        if text not in (None, "") and tidy(str(text)):
            self.fact(head, relation, self.literal(str(text)), source)

    def locate(self, kind: str, country: str, name: str, key: str) -> None:
        """Let `find` find the entity `key` of `kind` (city, subdivision) by `name` in `country`."""
        self.places.setdefault((kind, country, plain(name)), []).append(key)

    def find(self, kind: str, country: str, name: str, state: str = "") -> str | None:
        """Return the only entity of that kind, country and name (in the state with that code, if given)."""
        keys = self.places.get((kind, country, plain(name)), [])
        if len(keys) > 1 and state:
            keys = [key for key in keys if self.states.get(key) == state]
        return keys[0] if len(keys) == 1 else None

    def country(self, code: str) -> str | None:
        """Return the key of the country with that two-letter code; an unknown one is counted."""
        key = f"country:{code}"
        if key in self.named:
            return key
        self.counts["facts with an unknown country code left out"] += 1
        return None


def tidy(text: str) -> str:
    """Return `text` with single spaces and without invisible marks."""
    if text.isascii():
        return " ".join(text.split())
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


@cache  # the same names come back in every release
def plain(name: str) -> str:
    """Return `name` for comparison: no case, accents or punctuation ("São-Paulo" → "sao paulo")."""
    letters = unicodedata.normalize("NFKD", name).casefold().translate(LETTERS)
    kept = "".join(c for c in letters if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", kept))


def read_json(wheel: Wheel, member: str) -> Any:
    """Return the JSON document `member` of a wheel.

    Raises:
        UserError: the wheel is damaged, holds no such file, or it is not JSON.
    """
    try:
        return json.loads(wheel.read(member))
    except ValueError as error:
        raise UserError(
            f"{wheel.path.name}: {member} is no JSON ({error}); pin another release in conf/data"
        ) from error


def need(row: Any, keys: Iterable[str], wheel: Wheel, member: str) -> None:
    """Check that a row of `member` holds `keys`.

    Raises:
        UserError: it does not; the text names the first missing one.
    """
    for key in keys:
        if key not in row:
            raise UserError(
                f"{wheel.path.name}: {member} lacks {key!r} (it has {', '.join(map(str, list(row)[:12]))}); "
                "pin a release that has it in conf/data"
            )
