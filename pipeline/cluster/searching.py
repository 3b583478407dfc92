"""The search over shards: what needs all facts is decided here, by what each shard says of its own.

The nearest heads of all are among the nearest of each shard, and the best facts of all among the best of
each. So a search gives what one memory of all facts gives; facts that score exactly alike come in the order
of their heads' keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cluster.messages import Best, Near, Slot, Told, distinct, shard_of
from pipeline.memory.facts import Candidates, Found, Query
from pipeline.memory.searching import Searching
from pipeline.memory.settings import Memory


class Ground(Protocol):
    """What a search over shards needs of the memory."""

    def ask_all(self, what: str, *given: Any) -> list[Any]:
        """Ask each shard; return what they say, in order."""
        ...

    def ask_some(self, what: str, given: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Ask some shards, each for its own; return what they say."""
        ...

    def ask_owners(self, what: str, heads: Sequence[str], about: Sequence[Any], *given: Any) -> list[Any]:
        """Ask the shards of `heads` about each one's own of `about`; return what each is told."""
        ...

    def see(self, told: Sequence[Told]) -> list[int]:
        """Return the ids of facts."""
        ...

    def see_entities(self, keys: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Return the numbers of entities."""
        ...

    def keys_of(self, entities: Sequence[int]) -> list[str]:
        """Return the keys of entities."""
        ...

    def learn_relations(self, counts: Sequence[int]) -> None:
        """Take in relations that shards have beyond those known, by how many each has."""
        ...

    def relation_table(self) -> tuple[list[str], Float[Tensor, "R P"]]:
        """Return the keys and vectors of all relations known."""
        ...

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the numbers of heads, relations and tails."""
        ...

    def entity_vectors(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of entities."""
        ...

    def slots_of(self, facts: Sequence[int]) -> list[Slot]:
        """Return the keys of the slots of facts."""
        ...


@dataclass
class ShardedSearching(Searching):
    """One search, or several, over the shards of a memory."""

    ground: Ground
    settings: Memory
    shards: int
    on: str
    """Date to look at; empty for now."""

    def __post_init__(self) -> None:
        self.names, self.relations = self.ground.relation_table()

    def heads(self, query: Query) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the entities whose facts are looked at, nearest first, and how near each is."""
        key = query.key.detach().float().cpu()
        parts: list[Near] = self.ground.ask_all("nearest", key, self.settings, self.on)
        self.ground.learn_relations([part.relations for part in parts])
        self.names, self.relations = self.ground.relation_table()
        keys = [key for part in parts for key in part.keys]
        texts = [text for part in parts for text in part.texts]
        rows = torch.tensor(self.ground.see_entities(keys, texts), dtype=torch.long)
        rank = torch.from_numpy(np.argsort(np.argsort(np.array(keys, dtype=str), kind="stable"))).long()
        starts = np.cumsum([0, *(len(part.keys) for part in parts)]).tolist()
        near = torch.cat([part.near for part in parts], dim=1)
        places = [part.heads + start for part, start in zip(parts, starts, strict=False)]
        place = torch.cat(places, dim=1)
        if not near.shape[1]:
            return near, place
        order = np.lexsort((rank[place].numpy(), -near.numpy()), axis=1)[:, : self.settings.entities]
        chosen = torch.from_numpy(order)
        return near.gather(1, chosen), rows[place.gather(1, chosen)]

    def found(
        self, heads: Int[Tensor, "B n"], near: Float[Tensor, "B n"], shares: Float[Tensor, "B R"], n: int
    ) -> Found:
        """Return the n best facts of `heads`, by how near these are and the relations' log-probabilities."""
        rows, place = distinct(heads.masked_fill(near == -torch.inf, -1))
        there = rows[rows >= 0]
        place = place - (len(rows) - len(there))  # -1 for none
        keys = self.ground.keys_of(there.tolist())
        owner = [shard_of(key, self.shards) for key in keys]
        given: dict[int, tuple[Any, ...]] = {}
        for number in sorted(set(owner)):
            own = [i for i, its in enumerate(owner) if its == number]
            local = torch.full((len(keys) + 1,), -1)
            local[own] = torch.arange(len(own))
            names = [keys[i] for i in own]
            given[number] = names, local[place], near, self.names, shares, n, self.settings, self.on
        told = self.ground.ask_some("best", given)
        return self._merged([told[number] for number in sorted(told)], len(heads), n)

    def best_of_slots(self, query: Query, n: int) -> Candidates:
        """Return the n facts of the slots that fit best, in the slot layout."""
        parts = self.ground.ask_all("best_of_slots", query.key.detach().float().cpu(), n, self.on)
        return self._merged(parts, len(query.key), n).candidates

    def _merged(self, parts: Sequence[Best], questions: int, n: int) -> Found:
        """Return the n best facts of several shards, best first; ties go by head, then as it has them."""
        if not parts:
            return Found.none(questions, n, torch.device("cpu"))
        told = [one for part in parts for one in part.told]
        starts = np.cumsum([0, *(len(part.told) for part in parts)]).tolist()
        facts = torch.cat(
            [p.candidates.facts + s * (p.candidates.facts >= 0) for p, s in zip(parts, starts, strict=False)],
            dim=1,
        )
        scores, entity, relation = (
            torch.cat([part.candidates[column] for part in parts], dim=1) for column in (1, 2, 3)
        )
        places = torch.cat([part.places for part in parts], dim=1)
        order = np.lexsort((self._ranks(told)[facts.numpy()], places.numpy(), -scores.numpy()), axis=1)
        chosen = torch.from_numpy(order[:, :n])
        facts, scores, entity, relation, places = (
            table.gather(1, chosen) for table in (facts, scores, entity, relation, places)
        )
        shown, _ = distinct(facts)
        ids = torch.full((len(told) + 1,), -1)
        kept = shown[shown >= 0].tolist()
        ids[kept] = torch.tensor(self.ground.see([told[i] for i in kept]), dtype=torch.long)
        left_out = torch.stack([part.left_out for part in parts]).sum(0)
        candidates = Candidates(ids[facts], scores, entity, relation, torch.full_like(facts, -1))
        return Found(candidates, places, left_out)

    def _ranks(self, told: Sequence[Told]) -> NDArray[np.int64]:
        """Return the order of facts that score alike at one place: by head (and slot), then as they come."""
        parts = 2 if self.settings.layout == "slot" else 1
        order = sorted(range(len(told)), key=lambda i: told[i].key[:parts])
        ranks = np.zeros(len(told) + 1, dtype=np.int64)  # with a place for none
        ranks[order] = np.arange(len(told))
        return ranks

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the numbers of the heads, relations and tails of `facts`."""
        return self.ground.columns(facts)

    def entity_vectors(self, heads: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of entities."""
        return self.ground.entity_vectors(heads)

    def slot_vectors(self, facts: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of the slots of `facts`."""
        rows, place = distinct(facts)
        slots = self.ground.slots_of(rows.tolist())
        table = torch.stack(self.ground.ask_owners("slot_vectors", [head for head, _ in slots], slots))
        return table.to(facts.device)[place]
