"""The knowledge memory: facts that can be searched by a question and changed while it is in use."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.ann import BACKENDS, Searcher, searcher
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.names import Names
from pipeline.shapes import CandidateFacts, CandidateScores, Vectors

log = logging.getLogger(__name__)
LAYOUTS = ("factored", "slot")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How facts are laid out, found and read."""

    layout: str
    """`factored`: vectors of entities and relations; `slot`: one vector a (head, relation) pair."""
    N: int
    """Candidate facts of the coarse search (DySK-Attn: 200)."""
    k: int
    """Facts that the language model reads (DySK-Attn: 5)."""
    entities: int
    """Entities whose slots the factored search scores."""
    relation_weight: float
    """Weight of the relation's log-probability beside the entity's similarity."""
    backend: str
    """`exact`, `hnsw` or `ivf`."""
    links: int
    """Edges a node of the HNSW graph."""
    lists: int
    """Cells of the inverted file."""
    probes: int
    """Cells of the inverted file that a search visits."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"memory.layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        if self.backend not in BACKENDS:
            raise ValueError(f"memory.backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        for name in ("N", "k", "entities", "links", "lists", "probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"memory.{name} must be at least 1, not {getattr(self, name)}")
        if self.k > self.N:
            raise ValueError(f"memory.k ({self.k}) must not exceed memory.N ({self.N})")


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact by stable keys, with the names that new entities and relations get."""

    head: str
    relation: str
    tail: str
    head_label: str = ""
    relation_noun: str = ""
    tail_label: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """The stable key of the fact."""
        return self.head, self.relation, self.tail


class Query(NamedTuple):
    """What a question asks the memory for; the heads of `pipeline.model.heads` write it."""

    key: Vectors
    """Inner product with an entity's vector (a slot's, in the slot layout): how well it fits, in nats."""
    relation: Vectors
    """Inner product with a relation's vector: its logit among the relations."""


class Candidates(NamedTuple):
    """Facts that may answer, best first."""

    facts: CandidateFacts
    scores: CandidateScores
    entity: CandidateScores
    """The part of the score that the entity (or the slot) gives."""
    relation: CandidateScores
    """The log-probability of the relation; 0 in the slot layout."""


@dataclass(frozen=True)
class Receipt:
    """What a change did."""

    facts: list[int]
    """Ids of the facts that were written or deleted."""
    entities: int = 0
    """New entities."""
    relations: int = 0
    """New relations."""
    superseded: list[int] = field(default_factory=list)
    """Ids of the facts of the same slots that a replacing upsert removed."""


class KnowledgeMemory:
    """Facts over named entities and relations, searched by the vectors of their names.

    Ids are rows of this memory: stable while it lives, not across builds; `fact(id).key` is what is stable.

    Args:
        settings: layout and sizes of the search.
        encoder: turns the names of new entities, relations and slots into vectors.
    """

    def __init__(self, settings: Memory, encoder: TextEncoder) -> None:
        self.settings = settings
        self.encoder = encoder
        self.entities = Names(encoder)
        self.relations = Names(encoder)
        self.slots = Names(encoder)
        self._triples = np.empty((0, 3), dtype=np.int64)
        self._slot_of = np.empty(0, dtype=np.int64)
        self._alive = np.empty(0, dtype=np.bool_)
        self._row: dict[tuple[int, int, int], int] = {}
        self._index: Adjacency | None = None
        self._searcher: Searcher | None = None

    def __len__(self) -> int:
        return int(self._alive.sum())

    @property
    def device(self) -> torch.device:
        """Where vectors are held and searched."""
        return self.encoder.device

    def upsert(
        self, facts: Sequence[Fact], replace: bool = False, progress: Progress | None = None
    ) -> Receipt:
        """Add `facts`; they are found by the next search.

        Args:
            facts: with keys; labels and nouns are needed where a key is new.
            replace: whether a fact supersedes the other facts of its slot.
            progress: wraps the iteration over batches of new texts.

        Returns:
            A receipt with the ids of the facts, old or new, in the order given.

        Raises:
            UserError: a new entity or relation comes without a name, or a field is empty.
        """
        for fact in facts:
            if not all(part.strip() for part in fact.key):
                raise UserError(f"fact {' | '.join(fact.key)!r}: head, relation and tail must not be empty")
        known = len(self.entities), len(self.relations), len(self.slots)
        names = {fact.head: fact.head_label for fact in facts} | {
            fact.tail: fact.tail_label for fact in facts if fact.tail_label or fact.tail not in self.entities
        }
        self.entities.add(names, progress)
        self.relations.add({fact.relation: fact.relation_noun for fact in facts}, progress)
        wanted = [
            (self.entities.row(f.head), self.relations.row(f.relation), self.entities.row(f.tail))
            for f in facts
        ]
        if self.settings.layout == "slot":
            self.slots.add({_slot_key(h, r): self.slot_text(h, r) for h, r, _ in wanted}, progress)
        superseded: list[int] = []
        if replace:
            keep = set(wanted)
            for head, relation, _ in wanted:
                superseded += [
                    i for i in self.slot(head, relation) if tuple(self._triples[i].tolist()) not in keep
                ]
            self._alive[superseded] = False
        fresh = [triple for triple in dict.fromkeys(wanted) if triple not in self._row]
        if fresh:
            first = len(self._triples)
            self._row.update({triple: first + i for i, triple in enumerate(fresh)})
            self._triples = np.concatenate([self._triples, np.array(fresh, dtype=np.int64)])
            self._alive = np.concatenate([self._alive, np.zeros(len(fresh), dtype=np.bool_)])
        rows = [self._row[triple] for triple in wanted]
        self._alive[rows] = True
        self._index = None
        if (len(self.entities), len(self.slots)) != (known[0], known[2]):
            self._searcher = None
        return Receipt(
            rows, len(self.entities) - known[0], len(self.relations) - known[1], sorted(set(superseded))
        )

    def add_slots(self, progress: Progress | None = None) -> None:
        """Give every slot a vector, whatever the layout, so that a snapshot can be opened with either."""
        slots = dict.fromkeys((head, relation) for head, relation, _ in self._triples.tolist())
        self.slots.add({_slot_key(h, r): self.slot_text(h, r) for h, r in slots}, progress)

    def delete(self, facts: Iterable[tuple[str, str, str]]) -> Receipt:
        """Remove facts by stable key; they are not found by the next search.

        Raises:
            UserError: a fact is not in the memory; nothing is removed then.
        """
        rows = []
        for key in facts:
            row = self.find(*key)
            if row is None:
                raise UserError(f"fact {' | '.join(key)!r}: not in the memory, so it can't be deleted")
            rows.append(row)
        self._alive[rows] = False
        self._index = None
        return Receipt(rows)

    def find(self, head: str, relation: str, tail: str) -> int | None:
        """Return the id of the live fact with that stable key, or None."""
        if not (head in self.entities and relation in self.relations and tail in self.entities):
            return None
        triple = (self.entities.row(head), self.relations.row(relation), self.entities.row(tail))
        row = self._row.get(triple)
        return row if row is not None and self._alive[row] else None

    def fact(self, row: int) -> Fact:
        """Return the fact with the id `row`, names included."""
        head, relation, tail = self._triples[row].tolist()
        return Fact(
            self.entities.keys[head],
            self.relations.keys[relation],
            self.entities.keys[tail],
            self.entities.texts[head],
            self.relations.texts[relation],
            self.entities.texts[tail],
        )

    def text(self, row: int) -> str:
        """Return the fact as the sentence that a language model reads."""
        head, relation, tail = self._triples[row].tolist()
        return f"The {self.relations.texts[relation]} of {self.entities.texts[head]} is {self.entities.texts[tail]}."

    def slot_text(self, head: int, relation: int) -> str:
        """Return the key of a slot, as KG2KV words it."""
        return f"the {self.relations.texts[relation]} of {self.entities.texts[head]}"

    def facts_of(self, entity: int) -> list[int]:
        """Return the ids of the live facts whose head is `entity`."""
        return self.adjacency.by_head[entity]

    def slot(self, head: int, relation: int) -> list[int]:
        """Return the ids of the live facts of a slot."""
        return [row for row in self.facts_of(head) if self._triples[row, 1] == relation]

    def search(self, query: Query, n: int | None = None) -> Candidates:
        """Return the n facts (by default N) that fit each question best.

        The factored score of a fact (h, r, t) is q_e·e_h + w · log softmax_r(q_r·R); facts of the same
        slot score alike and follow each other. The slot score is q_k·b with the slot's
        vector b.
        """
        wanted = n or self.settings.N
        parts = [
            self._search(Query(*(p[i : i + 64] for p in query)), wanted) for i in range(0, len(query.key), 64)
        ]
        if not parts:
            empty = torch.empty(0, wanted, device=self.device)
            return Candidates(empty.long(), empty, empty, empty)
        return Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _search(self, query: Query, n: int) -> Candidates:
        adjacency = self.adjacency
        if self.settings.layout == "slot":
            best, groups = self._nearest(self.slots.vectors).search(query.key, n)
            facts, owner, valid = adjacency.by_slot.expand(groups)
            entity = best.gather(1, owner)
            relation = torch.zeros_like(entity)
        else:
            best, groups = self._nearest(self.entities.vectors).search(query.key, self.settings.entities)
            facts, owner, valid = adjacency.by_head.expand(groups)
            entity = best.gather(1, owner)
            logits = query.relation.float() @ self.relations.vectors.float().T
            of_fact = adjacency.relation[facts.clamp(min=0)]
            relation = torch.log_softmax(logits, dim=-1).gather(1, of_fact)
        scores = (entity + self.settings.relation_weight * relation).masked_fill(~valid, -torch.inf)
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        scores, order = _pad(scores[:, :n], n, -torch.inf), order[:, :n]
        return Candidates(
            _pad(facts.gather(1, order), n, -1).masked_fill(scores == -torch.inf, -1),
            scores,
            _pad(entity.gather(1, order), n, 0.0),
            _pad(relation.gather(1, order), n, 0.0),
        )

    def score(self, query: Query, facts: CandidateFacts) -> Candidates:
        """Return given facts with their scores, with gradients into the query; -inf where the id is -1."""
        rows = facts.clamp(min=0)
        adjacency = self.adjacency
        if self.settings.layout == "slot":
            keys = self.slots.vectors[adjacency.slot[rows]].float()
            entity = torch.einsum("bp,bnp->bn", query.key, keys)
            relation = torch.zeros_like(entity)
        else:
            heads = self.entities.vectors[adjacency.head[rows]].float()
            logits = query.relation @ self.relations.vectors.float().T
            relation = torch.log_softmax(logits, dim=-1).gather(1, adjacency.relation[rows])
            entity = torch.einsum("bp,bnp->bn", query.key, heads)
        scores = entity + self.settings.relation_weight * relation
        return Candidates(facts, scores.masked_fill(facts < 0, -torch.inf), entity, relation)

    def keys(self, facts: CandidateFacts) -> Float[Tensor, "B N P"]:
        """Return the base key of each fact, b_k = e_head + r: the sum of its slot's two vectors."""
        rows = facts.clamp(min=0)
        adjacency = self.adjacency
        return (
            self.entities.vectors[adjacency.head[rows]].float()
            + self.relations.vectors[adjacency.relation[rows]].float()
        )

    @property
    def triples(self) -> Int[np.ndarray, "M 3"]:
        """Head, relation and tail rows of every fact ever written."""
        return self._triples

    @property
    def adjacency(self) -> Adjacency:
        """The live facts by head and by slot, rebuilt after a change."""
        if self._index is None:
            self._index = Adjacency(
                self._triples, self._slots(), self._alive, len(self.entities), len(self.slots), self.device
            )
        return self._index

    def _slots(self) -> Int[np.ndarray, " M"]:
        """Return the slot row of each fact; zeros in the factored layout, which has none."""
        if self.settings.layout != "slot":
            return np.zeros(len(self._triples), dtype=np.int64)
        known = len(self._slot_of)
        fresh = [self.slots.row(_slot_key(h, r)) for h, r, _ in self._triples[known:].tolist()]
        self._slot_of = np.concatenate([self._slot_of, np.array(fresh, dtype=np.int64)])
        return self._slot_of

    def _nearest(self, vectors: Float[Tensor, "E P"]) -> Searcher:
        if self._searcher is None:
            s = self.settings
            self._searcher = searcher(vectors, s.backend, s.links, s.lists, s.probes)
        return self._searcher

    def snapshot(self, folder: Path) -> None:
        """Write the memory to `folder`, from which `open` reads it back."""
        folder.mkdir(parents=True, exist_ok=True)
        vectors = {"entities": self.entities, "relations": self.relations, "slots": self.slots}
        save_file(
            {name: n.vectors.half().cpu().contiguous() for name, n in vectors.items()},
            folder / "vectors.safetensors",
        )
        for name, names in vectors.items():
            pq.write_table(
                pa.table(
                    {"key": pa.array(names.keys, pa.string()), "text": pa.array(names.texts, pa.string())}
                ),
                folder / f"{name}.parquet",
            )
        live = self._triples[self._alive]
        pq.write_table(
            pa.table({"head": live[:, 0], "relation": live[:, 1], "tail": live[:, 2]}),
            folder / "facts.parquet",
        )

    @classmethod
    def open(cls, folder: Path, settings: Memory, encoder: TextEncoder) -> "KnowledgeMemory":
        """Return the memory that `snapshot` wrote to `folder`.

        Raises:
            UserError: a file is missing or damaged, or the vectors have another length than the encoder's.
        """
        memory = cls(settings, encoder)
        try:
            vectors = load_file(folder / "vectors.safetensors")
            for name in ("entities", "relations", "slots"):
                table = pq.read_table(folder / f"{name}.parquet")
                getattr(memory, name).restore(
                    table["key"].to_pylist(), table["text"].to_pylist(), vectors[name]
                )
            facts = pq.read_table(folder / "facts.parquet")
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise UserError(
                f"{folder}: not a memory ({error}); run the stage `index` (`dvc repro index`)"
            ) from error
        if settings.layout == "slot" and not len(memory.slots):
            raise UserError(
                f"{folder}: holds no slot vectors, which memory.layout=slot needs; run the stage `index`"
            )
        memory._triples = np.stack([facts[name].to_numpy() for name in ("head", "relation", "tail")], axis=1)
        memory._alive = np.ones(len(memory._triples), dtype=np.bool_)
        memory._row = {tuple(triple): row for row, triple in enumerate(memory._triples.tolist())}
        return memory


def _slot_key(head: int, relation: int) -> str:
    return f"{head}/{relation}"


def _pad(rows: Tensor, width: int, value: float) -> Tensor:
    """Return `rows` with columns of `value` added up to `width`."""
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=value)
