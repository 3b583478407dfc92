"""What a memory in shards has seen, and how it asks its shards."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.cluster.messages import Named, Slot, Told, shard_of
from pipeline.cluster.seen import SeenNames
from pipeline.cluster.shard import Shard
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key
from pipeline.memory.names import Names
from pipeline.memory.triples import Triples

Item = TypeVar("Item")


class Seeing:
    """Names and facts of a memory in shards by their numbers in this process.

    Args:
        shards: of the memory, all of them, in order.
        encoder: of questions and new names.
    """

    def __init__(self, shards: Sequence[Shard], encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.shards = shards
        self.entities = SeenNames(encoder, self._entities_named)
        self.relations: Names = Names(encoder)
        self._facts = Triples()
        self._learned = [0] * len(shards)
        self.learn_relations()

    def owner(self, key: str) -> int:
        """Return the shard of the facts that an entity heads."""
        return shard_of(key, len(self.shards))

    def parted(self, heads: Sequence[str], items: Sequence[Item]) -> dict[int, list[Item]]:
        """Return the items of each shard, in order, by what heads each of them."""
        parts: dict[int, list[Item]] = {}
        for head, item in zip(heads, items, strict=True):
            parts.setdefault(self.owner(head), []).append(item)
        return parts

    def ask_one(self, head: str, what: str, *given: Any) -> Any:
        """Ask the shard of a head."""
        return self.shards[self.owner(head)].ask(what, *given).result()

    def ask_all(self, what: str, *given: Any) -> list[Any]:
        """Ask each shard, all at a time; return what they say, in order."""
        asked = [shard.ask(what, *given) for shard in self.shards]
        return [pending.result() for pending in asked]

    def ask_some(self, what: str, given: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Ask some shards, each for its own, all at a time; return what they say."""
        asked = {number: self.shards[number].ask(what, *own) for number, own in given.items()}
        return {number: pending.result() for number, pending in asked.items()}

    def ask_owners(self, what: str, heads: Sequence[str], about: Sequence[Any], *given: Any) -> list[Any]:
        """Ask the shards of `heads` about each one's own of `about`, all at a time; return what they say."""
        own = self.parted(heads, about)
        told = self.ask_some(what, {number: (its, *given) for number, its in own.items()})
        found = {number: iter(its) for number, its in told.items()}
        return [next(found[self.owner(head)]) for head in heads]

    def _entities_named(self, keys: Sequence[str]) -> Named:
        """Return the entities that any shard knows, each once; the shard of its facts is believed first."""
        parts: list[Named] = self.ask_all("named", list(keys))
        found: dict[str, tuple[str, Float[Tensor, " P"]]] = {}
        for number, part in enumerate(parts):
            for key, text, vector in zip(*part, strict=True):
                if key not in found or self.owner(key) == number:
                    found[key] = text, vector
        texts, vectors = zip(*found.values(), strict=True) if found else ((), ())
        return Named(list(found), list(texts), torch.stack(vectors) if vectors else torch.empty(0, 0))

    def learn_relations(self, counts: Sequence[int] | None = None) -> None:
        """Take in relations beyond those known, of shards with more by `counts`; of all without."""
        known = self._learned
        given = {i: (known[i],) for i in range(len(known)) if counts is None or counts[i] > known[i]}
        for number, part in self.ask_some("relations", given).items():
            self._learned[number] += len(part.keys)
            self.add_relations(part)

    def add_relations(self, named: Named) -> None:
        """Take in those of some relations that aren't known."""
        new = [i for i, key in enumerate(named.keys) if key not in self.relations]
        if new:
            keys, texts = ([column[i] for i in new] for column in named[:2])
            self.relations.restore(keys, texts, named.vectors[new])

    def relation_table(self) -> tuple[list[str], Float[Tensor, "R P"]]:
        """Return the keys and vectors of all relations known."""
        vectors = self.relations.vectors
        return list(self.relations.keys[: len(vectors)]), vectors.float().cpu()

    def see_entities(self, keys: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Return the numbers of entities."""
        return self.entities.see(keys, texts)

    def keys_of(self, entities: Sequence[int]) -> list[str]:
        """Return the keys of entities."""
        return [self.entities.keys[row] for row in entities]

    def see(self, told: Sequence[Told]) -> list[int]:
        """Return the ids of facts, new ones for those that come for the first time."""
        if any(one.key[1] not in self.relations for one in told):
            self.learn_relations()
        ends = [(one.key[i], one.names[i]) for one in told for i in (0, 2)]
        rows = iter(self.entities.see([key for key, _ in ends], [text for _, text in ends]))
        triples = [(next(rows), self.relations.row(one.key[1]), next(rows)) for one in told]
        return self._facts.place(triples)

    def columns(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return the numbers of the heads, relations and tails of `facts`."""
        if not self._facts.end:  # nothing was found yet, and what stands for none is looked up all the same
            return torch.zeros(3, *facts.shape, dtype=torch.long, device=facts.device)
        return self._facts.columns(facts)

    def entity_vectors(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of entities."""
        return self.entities.gather(rows)

    def slots_of(self, facts: Sequence[int]) -> list[Slot]:
        """Return the keys of the slots of facts."""
        return [key[:2] for key in map(self.key, facts)]

    def key(self, row: int) -> Key:
        """Return the stable key of the fact with the id `row`."""
        head, relation, tail = self._triple(row)
        return self.entities.keys[head], self.relations.keys[relation], self.entities.keys[tail]

    def _triple(self, row: int) -> list[int]:
        if not 0 <= row < self._facts.end:
            raise IndexError(f"no fact with the id {row} was seen")
        triple: list[int] = self._facts.columns(torch.tensor([row]))[:, 0].tolist()
        return triple

    def names(self, row: int) -> tuple[str, str, str]:
        """Return the names of a fact's head, relation and tail."""
        head, relation, tail = self._triple(row)
        return self.entities.texts[head], self.relations.texts[relation], self.entities.texts[tail]

    def seen(self, key: Key) -> int | None:
        """Return the id of a fact that has been seen."""
        ends = self.entities.find(key[0]), self.relations.find(key[1]), self.entities.find(key[2])
        if ends[0] is None or ends[1] is None or ends[2] is None:
            return None
        return self._facts.known((ends[0], ends[1], ends[2]))

    def fact(self, row: int, on: str) -> Fact:
        """Return a fact with its names and the dates that count."""
        key = self.key(row)
        found: Fact | None = self.ask_one(key[0], "fact", key, on)
        return Fact(*key, *self.names(row)) if found is None else found

    def bearing(self, kind: str, name: str) -> tuple[list[str], list[str]]:
        """Return the keys of what has a label, and of what has it in whatever case, in any shard."""
        found: tuple[dict[str, None], dict[str, None]] = {}, {}
        for part in self.ask_all("bearing", kind, name):
            for keys, pairs in zip(found, part, strict=True):
                keys |= {key: None for key, _ in pairs}
                if kind == "entity":
                    self.entities.see([key for key, _ in pairs], [text for _, text in pairs])
        return list(found[0]), list(found[1])

    def alike(self, kind: str, name: str, count: int) -> list[str]:
        """Return labels that are written like a name, `count` of each shard at most."""
        return list(
            dict.fromkeys(label for part in self.ask_all("alike", kind, name, count) for label in part)
        )
