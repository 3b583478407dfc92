"""What a memory in shards and the processes that hold them tell each other: by stable keys, never by rows.

Rows differ between the copies of a shard and change when one is opened anew; keys don't.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.facts import Candidates, Fact, Key

Slot = tuple[str, str]
"""Stable keys of a head and a relation."""
Vectors = dict[tuple[str, str], Float[Tensor, " P"]]
"""Vectors of names by key and text; those of slots by an empty key and their text."""


class GoneError(Exception):
    """A copy of a shard doesn't answer: its process died, or it has yet to catch up."""


class FencedError(UserError):
    """Another process opened the memory for writing, so that this one may no longer."""


class Told(NamedTuple):
    """A fact, with the names of its head, its relation and its tail."""

    key: Key
    names: tuple[str, str, str]


class Near(NamedTuple):
    """The entities of one shard that head facts and are nearest to questions."""

    near: Float[Tensor, "B n"]
    """How near each is; -inf for none."""
    heads: Int[Tensor, "B n"]
    """Which of `keys` each is."""
    keys: list[str]
    texts: list[str]
    relations: int
    """How many relations the shard knows."""


class Best(NamedTuple):
    """The best facts of one shard."""

    candidates: Candidates
    """`facts` are places in `told`, -1 for none."""
    places: Int[Tensor, "B N"]
    """Which of the given heads each fact is of; 0 where none were given."""
    left_out: Int[Tensor, " B"]
    told: list[Told]


class Named(NamedTuple):
    """Names with their vectors, for a copy that lacks some of them."""

    keys: list[str]
    texts: list[str]
    vectors: Float[Tensor, "n P"]


class Lacking(NamedTuple):
    """What a shard doesn't know of what a change names."""

    entities: list[str]
    relations: list[str]
    slots: list[Slot]


class Outcome(NamedTuple):
    """What a change did, in a shard; as `pipeline.memory.facts.Receipt`."""

    facts: list[Told]
    superseded: list[Told]
    lost: list[tuple[Told, str]]
    begun: list[Told]
    ended: list[Told]


@dataclass(frozen=True)
class Order:
    """A change that is asked for."""

    kind: str
    """`upsert`, `delete` or `advance`."""
    on: str
    facts: Sequence[Fact] = ()
    removed: Sequence[Key] = ()
    replace: bool = False
    vectors: Vectors = field(default_factory=dict)
    """Of names that are new to the shard."""


class Done(NamedTuple):
    """A change that the first copy of a shard has in its journal."""

    receipt: Outcome
    number: int
    """Number of the first of the records."""
    payloads: list[bytes]
    """What it wrote to its journal, for the other copies."""
    standing: "Standing"


class Standing(NamedTuple):
    """Where a copy of a shard stands."""

    term: int
    """Number of the last opening or loss of a copy that it was told of; 0 where it was told of none."""
    members: tuple[int, ...]
    """The copies that counted in that term."""
    version: int
    """Number of the next record of its journal."""
    facts: int
    on: str
    """Date that it stands at; empty where nothing in it is dated."""
    relations: int
    ready: bool
    """Whether it was let in since its process began."""


def distinct(rows: Int[Tensor, "*n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, "*n"]]:
    """Return the different numbers among `rows`, ascending, and where each of `rows` is in that."""
    found, place = np.unique(rows.cpu().numpy(), return_inverse=True)
    return torch.from_numpy(found), torch.from_numpy(place.reshape(rows.shape))


def shard_of(key: str, shards: int) -> int:
    """Return the shard of the facts that the entity `key` heads: the same on every machine and at all times.

    >>> [shard_of(f"Q{i}", 5) for i in range(4)]
    [3, 3, 0, 4]
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % shards
