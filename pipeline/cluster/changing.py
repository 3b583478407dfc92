"""Changes of a memory in shards: checked against all of it, then carried out by the shards concerned."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as replaced

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cluster.messages import Done, Lacking, Named, Order, Slot, Standing, Told, Vectors
from pipeline.cluster.seeing import Seeing
from pipeline.config import UserError
from pipeline.memory.dates import day
from pipeline.memory.dating import date_after
from pipeline.memory.encoder import Progress
from pipeline.memory.facts import Fact, Key, Receipt
from pipeline.memory.names import New
from pipeline.memory.planning import fresh_names, slot_text
from pipeline.memory.settings import Memory


class Changing:
    """Routes changes by the heads of their facts.

    Args:
        seeing: the shards, and what was seen of them.
        settings: of the memory.
    """

    def __init__(self, seeing: Seeing, settings: Memory) -> None:
        self._seeing = seeing
        self._settings = settings
        self._pool = ThreadPoolExecutor(len(seeing.shards), thread_name_prefix="shard")
        self._standings: list[Standing] = seeing.ask_all("standing")

    @property
    def versions(self) -> list[int]:
        """Number of the next record of each shard, as this process knows it."""
        return [standing.version for standing in self._standings]

    @property
    def on(self) -> str:
        """Date that the memory stands at; empty where nothing in it is dated."""
        return max((its.on for its in self._standings if its.on), key=day, default="")

    def upsert(self, facts: Sequence[Fact], replace: bool, progress: Progress | None, on: str) -> Receipt:
        """Write facts; see `pipeline.cluster.sharded.ShardedMemory.upsert`."""
        seeing = self._seeing
        seeing.entities.look_up([key for fact in facts for key in (fact.head, fact.tail)])
        if seeing.relations.lacks(fact.relation for fact in facts):
            seeing.learn_relations()
        names = {"entities": seeing.entities, "relations": seeing.relations}
        fresh = fresh_names(facts, names)
        date = date_after(on, self.on)
        for fact in facts:
            if fact.dated:
                fact.period(date)
        new = {kind: names[kind].encoded(texts, progress) for kind, texts in fresh.items()}
        labelled = [self._labelled(fact, fresh) for fact in facts]
        parts = seeing.parted([fact.head for fact in labelled], labelled)
        vectors = self._vectors(parts, new, progress)
        orders = {
            number: Order("upsert", date, own, replace=replace, vectors=vectors[number])
            for number, own in parts.items()
        }
        done = self._carried_out(orders)
        seeing.entities.see(new["entities"].keys, new["entities"].texts)
        its = new["relations"]
        if its.keys:
            seeing.add_relations(Named(list(its.keys), list(its.texts), its.vectors))
        counts = len(new["entities"].keys), len(new["relations"].keys)
        return self._receipt(done, [fact.key for fact in facts], counts)

    def _labelled(self, fact: Fact, fresh: Mapping[str, Mapping[str, str]]) -> Fact:
        """Return `fact` with the names that its parts have in the memory, or get now."""
        seeing = self._seeing
        known = seeing.entities, seeing.relations, seeing.entities
        kinds = "entities", "relations", "entities"
        head, relation, tail = (
            fresh[kind][key] if key in fresh[kind] else names.texts[names.row(key)]
            for key, names, kind in zip(fact.key, known, kinds, strict=True)
        )
        return replaced(fact, head_label=head, relation_noun=relation, tail_label=tail)

    def _vectors(
        self, parts: Mapping[int, Sequence[Fact]], new: Mapping[str, New], progress: Progress | None
    ) -> dict[int, Vectors]:
        """Return the vectors that each shard lacks of what its facts name."""
        seeing = self._seeing
        known = [
            {key: vector for key, vector in zip(its.keys, its.vectors, strict=True)} for its in new.values()
        ]
        with_slots = self._settings.layout == "slot"
        given = {}
        for number, own in parts.items():
            ends = dict.fromkeys(key for fact in own for key in (fact.head, fact.tail))
            slots = dict.fromkeys((fact.head, fact.relation) for fact in own if with_slots)
            given[number] = list(ends), list(dict.fromkeys(fact.relation for fact in own)), list(slots)
        lacking: dict[int, Lacking] = seeing.ask_some("lacking", given)
        worded = self._slots({slot for its in lacking.values() for slot in its.slots}, parts, progress)
        found: dict[int, Vectors] = {}
        for number, its in lacking.items():
            texts = {
                key: text
                for fact in parts[number]
                for key, text in ((fact.head, fact.head_label), (fact.tail, fact.tail_label))
            }
            nouns = {fact.relation: fact.relation_noun for fact in parts[number]}
            old = [key for key in its.entities if key not in known[0]]
            rows = torch.tensor([seeing.entities.row(key) for key in old], dtype=torch.long)
            entities = known[0] | dict(zip(old, seeing.entities.gather(rows) if old else (), strict=True))
            relations = dict(known[1])
            for key in its.relations:
                if key not in relations:
                    row = torch.tensor([seeing.relations.row(key)])
                    relations[key] = seeing.relations.gather(row)[0]
            found[number] = {(key, texts[key]): entities[key].cpu() for key in its.entities}
            found[number] |= {(key, nouns[key]): relations[key].cpu() for key in its.relations}
            found[number] |= {("", worded[slot][0]): worded[slot][1] for slot in its.slots}
        return found

    def _slots(
        self, wanted: set[Slot], parts: Mapping[int, Sequence[Fact]], progress: Progress | None
    ) -> dict[Slot, tuple[str, Float[Tensor, " P"]]]:
        """Return texts and vectors of slots."""
        texts = {
            (fact.head, fact.relation): slot_text(fact.head_label, fact.relation_noun)
            for own in parts.values()
            for fact in own
            if (fact.head, fact.relation) in wanted
        }
        if not texts:
            return {}
        vectors = self._seeing.encoder.encode(list(texts.values()), progress).half().cpu()
        return {slot: (text, vector) for (slot, text), vector in zip(texts.items(), vectors, strict=True)}

    def delete(self, keys: Sequence[Key], on: str) -> Receipt:
        """Take facts back; see `pipeline.cluster.sharded.ShardedMemory.delete`."""
        date = date_after(on, self.on)
        parts = self._seeing.parted([key[0] for key in keys], keys)
        found = self._seeing.ask_some("known", {number: (own,) for number, own in parts.items()})
        there = {one[0].key for its in found.values() for one in its if one is not None}
        for key in keys:
            if key not in there:
                raise UserError(f"fact {' | '.join(key)!r}: not in the memory, so it can't be deleted")
        orders = {number: Order("delete", date, removed=own) for number, own in parts.items()}
        return self._receipt(self._carried_out(orders), keys, (0, 0))

    def advance(self, on: str) -> Receipt:
        """Let time go on in every shard; see `pipeline.cluster.sharded.ShardedMemory.advance`."""
        order = Order("advance", date_after(on, self.on))
        return self._receipt(
            self._carried_out(dict.fromkeys(range(len(self._seeing.shards)), order)), (), (0, 0)
        )

    def _carried_out(self, orders: Mapping[int, Order]) -> list[Done]:
        """Carry out orders, those of different shards side by side; then time goes on in the others.

        Raises:
            UserError: of the first that failed, once all others were carried out.
        """
        done = self._side_by_side(orders)
        on = self.on
        late = [i for i, its in enumerate(self._standings) if its.on and day(its.on) < day(on)]
        return done + self._side_by_side(dict.fromkeys(late, Order("advance", on)))

    def _side_by_side(self, orders: Mapping[int, Order]) -> list[Done]:
        shards = self._seeing.shards
        errors: list[BaseException] = []
        if len(orders) == 1:
            [(number, order)] = orders.items()
            found = [(number, shards[number].change(order))]
        else:
            begun = [(n, self._pool.submit(shards[n].change, order)) for n, order in orders.items()]
            errors = [error for _, its in begun if (error := its.exception()) is not None]
            found = [(number, its.result()) for number, its in begun if its.exception() is None]
        for number, done in found:
            self._standings[number] = done.standing
        if errors:
            raise errors[0]
        return [done for _, done in found]

    def _receipt(self, done: Sequence[Done], keys: Sequence[Key], new: tuple[int, int]) -> Receipt:
        told = {one.key: one for its in done for one in its.receipt.facts}
        parts = [its.receipt for its in done]

        def rows(found: Sequence[Told]) -> list[int]:
            return self._seeing.see(found)

        return Receipt(
            rows([told[key] for key in keys]),
            *new,
            sorted(rows([one for part in parts for one in part.superseded])),
            {rows([one])[0]: why for part in parts for one, why in part.lost},
            rows([one for part in parts for one in part.begun]),
            rows([one for part in parts for one in part.ended]),
        )
