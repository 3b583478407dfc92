"""Streams files of facts into the table `facts` in bounded memory: the keys, and one number a fact.

The numbers, folds and repairs are those of `pipeline.kg.build`, which holds every fact as an object.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.blocks import Mapped, in_turn
from pipeline.config import UserError
from pipeline.kg.facts import FOLDS, SCHEMAS, Ids
from pipeline.kg.sources.files import AGAIN, lines
from pipeline.kg.sources.large import Distinct, Keys, Packing, blocks, numbered, texts
from pipeline.kg.splits import Splits

COLUMNS = ("head", "relation", "tail")
KEYS = pa.schema([("keys", pa.list_(pa.string()))])
LOOPS = b"self-loops"
FACT_GROUP = 1 << 19
"""Facts in a row group."""

Parts = Mapping[str, Path]
"""The files of facts by the name of their part; a fact that several hold belongs to the first."""


@dataclass(frozen=True)
class Part:
    """The name and the file of a part, and which one it is."""

    source: int
    path: Path


def _blocks(parts: Parts) -> Iterator[tuple[Part, pa.RecordBatch]]:
    for source, path in enumerate(parts.values()):
        for block in blocks(path, COLUMNS):
            yield Part(source, path), block


def distinct_keys(block: tuple[Part, pa.RecordBatch]) -> pa.Table:
    """Return the distinct keys of the heads, tails and relations of a block, a row of each, but self-loops.

    Raises:
        UserError: a row has another form.
    """
    part, rows = block
    for column, letter in zip(rows.columns, "QPQ", strict=True):
        _check(column, letter, part.path)
    kept = rows.filter(pc.not_equal(rows["head"], rows["tail"]))
    return pa.table({"keys": [kept[name].unique() for name in ("head", "tail", "relation")]}, KEYS)


@dataclass(frozen=True)
class Packed:
    """Makes numbers of the facts of a block."""

    entities: Keys
    relations: Keys
    packing: Packing

    def __call__(self, block: tuple[Part, pa.RecordBatch]) -> pa.Table:
        """Return the numbers of the facts that are no self-loops, and in its metadata how many are."""
        part, rows = block
        kept = rows.filter(pc.not_equal(rows["head"], rows["tail"]))
        head, tail = (numbered(kept[name], self.entities) for name in ("head", "tail"))
        packed = self.packing.pack(head, numbered(kept["relation"], self.relations), tail, part.source)
        return pa.table({"fact": packed}, metadata={LOOPS: str(len(rows) - len(kept))})


def numbering(parts: Parts, mapped: Mapped = in_turn) -> tuple[Keys, Keys]:
    """Return the sorted keys of all entities and relations that a fact other than a self-loop names.

    Raises:
        UserError: a file is missing, damaged or empty, a row has another form, or all facts are self-loops.
    """
    entities, relations = Distinct(), Distinct()
    for found in mapped(distinct_keys, _blocks(parts)):
        heads, tails, kinds = (row.values for row in found["keys"])
        entities.add(heads)
        entities.add(tails)
        relations.add(kinds)
    if not len(relations.sorted()):
        raise UserError(f"{next(iter(parts.values()))}: every fact is a self-loop; {AGAIN}")
    return entities.sorted(), relations.sorted()


def _check(column: pa.Array, letter: str, path: Path) -> None:
    """Raise UserError with the line of the first text of `column` that is no key."""
    distinct = column.unique()
    wrong = distinct.filter(pc.invert(pc.match_substring_regex(distinct, f"^{letter}[0-9]+$")))
    if len(wrong):
        cell = wrong[0].as_py()
        number = next((number for number, line in lines(path) if cell in line.split("\t")), "?")
        raise UserError(
            f"{path}, line {number}: {cell!r} is no id like {letter}42; correct the line, or {AGAIN}"
        )


def packed_facts(
    parts: Parts,
    entities: Keys,
    relations: Keys,
    packing: Packing,
    repairs: Counter[str],
    mapped: Mapped = in_turn,
) -> Ids:
    """Return the facts as sorted numbers, each once, with the first part that holds it as its source."""
    packed: list[Ids] = []
    for found in mapped(Packed(entities, relations, packing), _blocks(parts)):
        repairs["self-loops left out"] += int(found.schema.metadata[LOOPS])
        packed.append(found["fact"].to_numpy())
    facts = np.concatenate(packed)
    packed.clear()
    facts.sort()
    first = np.ones(len(facts), bool)
    for start in range(1, len(facts), FACT_GROUP):
        rows = slice(start, start + FACT_GROUP)
        triples = facts[start - 1 : start + FACT_GROUP] // packing.sources
        first[rows] = triples[1:] != triples[:-1]
    repairs["repeated rows left out"] = len(facts) - int(first.sum())
    return facts[first]


@dataclass(frozen=True)
class FactTable:
    """Writes packed facts as the table `facts`, one row group at a time."""

    entities: Keys
    relations: Keys
    packing: Packing
    sources: tuple[str, ...]
    """What the last number of a packed fact stands for."""
    splits: Splits
    seed: int

    def write(self, out: Path, facts: Ids) -> dict[str, Any]:
        """Write `facts`; return the number of facts, slots and heads, and of facts by fold and relation."""
        by_relation, is_head = self._sizes(facts)
        fold, hidden = self._folds(by_relation, is_head)
        sizes = np.zeros(len(FOLDS), np.int64)
        start, slots, last = 0, 0, -1
        with pq.ParquetWriter(out / "facts.parquet", SCHEMAS["facts"], compression="zstd") as writer:
            for rows in _groups(facts):
                head, relation, tail, source = self.packing.unpack(rows)
                folds = np.where(hidden[relation], FOLDS.index("unseen_relation"), fold[head])
                sizes += np.bincount(folds, minlength=len(FOLDS))
                slot = head * self.packing.relations + relation
                slots += int(np.count_nonzero(np.diff(slot, prepend=last)))
                last = int(slot[-1])
                blank = pa.repeat(pa.scalar(""), len(rows))
                columns = {
                    "id": np.arange(start, start + len(rows)),
                    "head": head,
                    "relation": relation,
                    "tail": tail,
                    "start": blank,
                    "end": blank,
                    "source": pa.array(self.sources).take(pa.array(source)),
                    "snapshot": np.zeros(len(rows), np.int64),
                    "fold": pa.array(FOLDS).take(pa.array(folds)),
                }
                writer.write_table(pa.Table.from_pydict(columns, schema=SCHEMAS["facts"]))
                start += len(rows)
        return {
            "facts": len(facts),
            "slots": slots,
            "heads": int(is_head.sum()),
            "folds": {name: {"facts": size} for name, size in zip(FOLDS, sizes.tolist(), strict=True)},
            "relations": by_relation.tolist(),
        }

    def _sizes(self, facts: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        """Return how many facts each relation has, [R], and which entities are heads, [E]."""
        by_relation = np.zeros(len(self.relations), np.int64)
        is_head = np.zeros(len(self.entities), bool)
        for rows in _groups(facts):
            head, relation, _, _ = self.packing.unpack(rows)
            by_relation += np.bincount(relation, minlength=len(self.relations))
            is_head[head] = True
        return by_relation, is_head

    def _folds(
        self, by_relation: Ids, is_head: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return each entity's fold as its place in FOLDS, [E], and which relations are held out, [R]."""
        names = texts(self.relations).to_pylist()
        held_out = self.splits.held_out(dict(zip(names, by_relation.tolist(), strict=True)), self.seed)
        fold = np.zeros(len(self.entities), np.int8)
        for i in np.flatnonzero(is_head).tolist():
            fold[i] = FOLDS.index(self.splits.fold_of(self.entities[i].decode(), self.seed))
        return fold, np.array([name in held_out for name in names])


def _groups(facts: Ids) -> Iterator[Ids]:
    for start in range(0, len(facts), FACT_GROUP):
        yield facts[start : start + FACT_GROUP]
