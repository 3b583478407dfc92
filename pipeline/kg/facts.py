"""The tables that pass between stages, and the graph they hold.

Ids are dense from 0 inside one build. Across builds an entity, a relation and a fact are known by their
stable keys: the source's key of the entity or relation, and (head, relation, tail) for the fact.

`facts` holds the facts of every snapshot. Those of snapshot 0 are the base; `changes` lists, in order,
what moves the graph from one snapshot to the next, so that replaying it on the base gives the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import UserError

Ids = NDArray[np.int64]

FOLDS = ("train", "valid", "test", "unseen_relation")
"""Disjoint groups of facts: by head entity, and the last by relation. Only `train` is trained on."""

SPLITS = (
    "train",
    "valid",
    "seen",
    "unseen",
    "unseen_relation",
    "two_hop",
    "updated",
    "added",
    "unchanged",
    "unanswerable",
)
"""Groups of questions; `pipeline.kg.questions` says what each holds."""

SCHEMAS: dict[str, pa.Schema] = {
    "entities": pa.schema(
        [
            ("id", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("description", pa.string()),
            ("aliases", pa.list_(pa.string())),
        ]
    ),
    "relations": pa.schema(
        [
            ("id", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("noun_tail", pa.string()),
            ("noun_head", pa.string()),
        ]
    ),
    "facts": pa.schema(
        [
            ("id", pa.int64()),
            ("head", pa.int64()),
            ("relation", pa.int64()),
            ("tail", pa.int64()),
            ("start", pa.string()),
            ("end", pa.string()),
            ("source", pa.string()),
            ("snapshot", pa.int64()),
            ("fold", pa.string()),
        ]
    ),
    "changes": pa.schema([("snapshot", pa.int64()), ("op", pa.string()), ("fact", pa.int64())]),
    "questions": pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("kind", pa.string()),
            ("facts", pa.list_(pa.int64())),
            ("answers", pa.list_(pa.string())),
            ("split", pa.string()),
        ]
    ),
    "kv": pa.schema(
        [
            ("fact", pa.int64()),
            ("side", pa.string()),
            ("question", pa.string()),
            ("key", pa.string()),
            ("value", pa.string()),
        ]
    ),
}
SCHEMAS["synthetic"] = SCHEMAS["kv"]


def write_table(folder: Path, name: str, columns: Mapping[str, object]) -> None:
    """Write `columns` as the table `name` of `folder`; the schema of the table checks them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pydict(dict(columns), schema=SCHEMAS[name])
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd")


def read_table(folder: Path, name: str) -> pa.Table:
    """Return the table `name` of `folder`.

    Raises:
        UserError: the file is missing or damaged, or its columns are not the table's.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: not found; run the stage that writes it (`dvc repro` runs what is missing)")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from error
    missing = set(SCHEMAS[name].names) - set(table.column_names)
    if missing:
        raise UserError(f"{path}: lacks the column {min(missing)!r}; delete it and run `dvc repro`")
    return table.select(SCHEMAS[name].names).cast(SCHEMAS[name])


@dataclass(frozen=True)
class Graph:
    """Entities, relations and the facts of every snapshot, read from a folder of tables."""

    entities: pa.Table
    relations: pa.Table
    facts: pa.Table
    changes: pa.Table

    @classmethod
    def read(cls, folder: Path, relations: Path | None = None) -> "Graph":
        """Return the graph of `folder`; relations come from `relations` (with nouns) where it is given.

        Raises:
            UserError: a table is missing or damaged, or there is no fact in it.
        """
        graph = cls(
            read_table(folder, "entities"),
            read_table(relations or folder, "relations"),
            read_table(folder, "facts"),
            read_table(folder, "changes"),
        )
        if graph.facts.num_rows == 0:
            raise UserError(f"{folder}: the graph has no facts; check the data choice of params.yaml")
        return graph

    @cached_property
    def labels(self) -> list[str]:
        """The label of each entity, by id."""
        labels: list[str] = self.entities["label"].to_pylist()
        return labels

    @cached_property
    def aliases(self) -> dict[str, list[str]]:
        """Further names of the entities that have any, by their stable keys."""
        pairs = zip(self.entities["key"].to_pylist(), self.entities["aliases"].to_pylist(), strict=True)
        return {key: aliases for key, aliases in pairs if aliases}

    @cached_property
    def relation_labels(self) -> list[str]:
        """The label of each relation, by id."""
        labels: list[str] = self.relations["label"].to_pylist()
        return labels

    @cached_property
    def nouns(self) -> list[str]:
        """What a relation's tail is called ("capital" in "the capital of France"), by relation id."""
        pairs = zip(self.relations["noun_tail"].to_pylist(), self.relation_labels, strict=True)
        return [noun or label for noun, label in pairs]

    @cached_property
    def triples(self) -> Ids:
        """Head, relation and tail of each fact, by id: [M, 3]."""
        return np.stack([self.facts[name].to_numpy() for name in ("head", "relation", "tail")], axis=1)

    def hops(self, facts: Sequence[int]) -> list[list[int]]:
        """Return the facts of each hop, where `facts` lists those of one slot after those of another."""
        return [list(same) for _, same in groupby(facts, lambda fact: self.triples[fact, :2].tolist())]

    @property
    def last_snapshot(self) -> int:
        """The number of the newest snapshot; 0 where there is only the base."""
        return int(max(self.changes["snapshot"].to_pylist(), default=0))

    def live(self, snapshot: int = 0) -> NDArray[np.bool_]:
        """Return which facts hold in `snapshot`: [M]."""
        holds: NDArray[np.bool_] = self.facts["snapshot"].to_numpy() == 0
        for number, op, fact in zip(
            *(self.changes[name].to_pylist() for name in ("snapshot", "op", "fact")), strict=True
        ):
            if number <= snapshot:
                holds[fact] = op == "upsert"
        return holds
