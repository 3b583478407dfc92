"""A memory's facts in tensors that stay where they are, so that one recorded search serves every question.

The search is that of `pipeline.memory.scoring` over facts in arrays, with as many places for facts as are
planned for. What changed since the facts were laid out is written into the tensors.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory.facts import Candidates, Query
from pipeline.memory.standing import InMemory
from pipeline.memory.store import KnowledgeMemory
from pipeline.shapes import CandidateFacts

WIDTH = 3072
"""Facts around a question's nearest entities that have places. One kernel sorts 4,096."""
RELATIONS = 64
"""Relations that may."""


class Fixed(NamedTuple):
    """What a search over tables finds."""

    candidates: Candidates
    """As of `Scoring.score`: by the coarse search's order, with fine scores."""
    heads: CandidateFacts
    """Rows of the candidates' heads; those of any fact where there is none."""
    relations: CandidateFacts
    """Likewise of their relations."""
    counts: Int[Tensor, "B N"]
    """How many facts their heads head."""
    full: Bool[Tensor, " B"]
    """Whether there were more facts to look at than places: then the rest is not to be trusted."""


def fits(memory: KnowledgeMemory) -> bool:
    """Return whether tables can be made of a memory: factored, in RAM, searched exactly, not empty."""
    exact = memory.settings.layout == "factored" and memory.settings.backend == "exact"
    return exact and memory.arrangement.base is None and len(memory) > 0


class Tables:
    """The facts of a memory that `fits`.

    Args:
        memory: gives them, and the changes that `follow` takes in.
        late: facts, and as many entities, that may come later.
    """

    def __init__(self, memory: KnowledgeMemory, late: int) -> None:
        scoring = memory.arrangement.scoring
        assert isinstance(scoring.standing, InMemory)
        self._memory, self._standing = memory, scoring.standing
        groups, device = scoring.standing.adjacency.by_head, memory.device
        self._start, self._members = groups.start, groups.members
        # Rows that are taken of a growing tensor stay as they are.
        self._vectors = memory.entities.vectors[: len(groups.start) - 1]
        entities = len(self._vectors) + late
        self._late_vectors = self._vectors.new_zeros(late, self._vectors.shape[1])
        self._closed = self._vectors.new_full((entities,), -torch.inf)
        self._counts = torch.zeros(entities, dtype=torch.long, device=device)
        relations = len(memory.relations) + RELATIONS
        self._relations = torch.zeros(relations, self._vectors.shape[1], device=device)
        self._unknown = torch.full((relations,), -torch.inf, device=device)
        facts = scoring.standing.adjacency.facts + late
        self._triples = torch.zeros(2, facts, dtype=torch.long, device=device)
        self._gone = torch.zeros(facts, dtype=torch.bool, device=device)
        self._late = torch.full((late,), -1, device=device)
        self._free = list(range(late))
        self._slots: dict[int, int] = {}  # of late facts
        self._seen = 0, 0, 0  # facts, entities and relations
        self._at = 0
        counts = self._start[1:] - self._start[:-1]
        self._counts[: len(counts)] = counts
        self._closed[: len(counts)].masked_fill_(counts > 0, 0.0)
        self.follow()

    @property
    def facts(self) -> int:
        """How many facts have a place."""
        return len(self._gone)

    @property
    def entities(self) -> int:
        """How many entities have a place."""
        return len(self._counts)

    @property
    def relations(self) -> int:
        """How many relations have one."""
        return len(self._unknown)

    def follow(self) -> bool:
        """Take in what changed; return whether all of it has a place: else a search must not be made."""
        memory = self._memory
        scoring = memory.arrangement.scoring
        seen = len(memory.triples), len(memory.entities), len(memory.relations)
        if scoring.standing is not self._standing:
            return False
        if (scoring.at, seen) == (self._at, self._seen):
            return True
        places = len(self._gone), self.entities, self.relations
        if any(count > room for count, room in zip(seen, places, strict=True)):
            return False
        turned = scoring.delta.turned(self._at, scoring.at)
        late = {row: held for row, held in turned.items() if not scoring.delta.laid_out(row)}
        if sum(late.values()) > len(self._free):
            return False
        self._take_names(seen)
        for row, held in late.items():
            if held and row not in self._slots:
                self._slots[row] = self._free.pop()
            elif not held and row in self._slots:
                self._free.append(self._slots.pop(row))
        self._write(self._late, self._free, -1)
        self._write(self._late, list(self._slots.values()), list(self._slots))
        laid_out = [row for row in turned if row not in late]
        self._write(self._gone, laid_out, [not turned[row] for row in laid_out])
        heads = np.unique(memory.triples[list(turned), 0]).tolist() if turned else []
        counts = [scoring.delta.count(head, scoring.at) for head in heads]
        self._write(self._counts, heads, counts)
        self._write(self._closed, heads, [0.0 if count else -torch.inf for count in counts])
        self._at = scoring.at
        return True

    def _take_names(self, seen: tuple[int, int, int]) -> None:
        """Write the rows of facts, entities and relations up to `seen` that aren't here yet."""
        memory, (fact, entity, relation) = self._memory, self._seen
        rows = memory.triples[fact : seen[0], :2]
        self._triples[:, fact : seen[0]] = torch.from_numpy(rows.T.copy()).to(self._triples.device)
        first = len(self._vectors)
        start = max(entity, first)
        self._late_vectors[start - first : seen[1] - first] = memory.entities.vectors[start : seen[1]]
        self._relations[relation : seen[2]] = memory.relations.vectors[relation : seen[2]].float()
        self._unknown[relation : seen[2]] = 0.0
        self._seen = seen

    @staticmethod
    def _write(table: Tensor, rows: list[int], values: object) -> None:
        at = torch.tensor(rows, dtype=torch.long, device=table.device)
        table[at] = torch.as_tensor(values, dtype=table.dtype, device=table.device)

    def slots(self, facts: CandidateFacts) -> Int[Tensor, "2 B N"]:
        """Return the rows of the heads and relations of facts; those of any fact where there is none."""
        return self._triples[:, facts.clamp(min=0)]

    def search(self, query: Query) -> Fixed:
        """Return the N best facts with their fine scores; see `Scoring.search` and `Scoring.score`."""
        settings = self._memory.settings
        near, heads = self._nearest(query.key, min(settings.entities, self.entities))
        logits = query.relation.float() @ self._relations.T + self._unknown
        shares = torch.log_softmax(logits, dim=-1)
        facts, owner, full = self._facts(heads, near)
        relations = self._triples[1][facts.clamp(min=0)]
        scores = near.gather(1, owner) + settings.relation_weight * shares.gather(1, relations)
        scores = scores.masked_fill(facts < 0, -torch.inf)
        n = min(settings.N, scores.shape[1])
        order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :n]
        facts = facts.gather(1, order).masked_fill(scores.gather(1, order) == -torch.inf, -1)
        facts = F.pad(facts, (0, settings.N - n), value=-1)
        heads, relations = self.slots(facts)
        none = facts < 0
        entity = torch.einsum("bp,bnp->bn", query.key, self._vectors_of(heads).float())
        relation = shares.gather(1, relations)
        fine = (entity + settings.relation_weight * relation).masked_fill(none, -torch.inf)
        parts = entity.masked_fill(none, 0.0), relation.masked_fill(none, 0.0)
        found = Candidates(facts, fine, *parts, torch.full_like(facts, -1))
        return Fixed(found, heads, relations, self._counts[heads], full)

    def _nearest(self, key: Float[Tensor, "B P"], n: int) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n nearest entities that head a fact, and how near they are; -inf for none."""
        key = key.to(self._vectors.dtype)
        near = torch.cat([key @ self._vectors.T, key @ self._late_vectors.T], dim=1) + self._closed
        best, rows = near.topk(n, dim=-1)
        return best.float(), rows

    def _vectors_of(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        first = len(self._vectors)
        early = self._vectors[rows.clamp(max=first - 1)]
        late = self._late_vectors[(rows - first).clamp(min=0)]
        return torch.where((rows < first)[..., None], early, late)

    def _facts(
        self, heads: Int[Tensor, "B n"], near: Float[Tensor, "B n"]
    ) -> tuple[Int[Tensor, "B W"], Int[Tensor, "B W"], Bool[Tensor, " B"]]:
        """Return the facts of `heads`, in their order, then by id; which each is of; and `Fixed.full`.

        As `pipeline.memory.adjacency.Groups.expand`, with places for the facts that came later.
        """
        inside = (near > -torch.inf) & (heads < len(self._vectors))
        held = heads.masked_fill(~inside, 0)
        starts = self._start[held]
        ends = (self._start[held + 1] - starts).masked_fill(~inside, 0).cumsum(dim=-1)
        places = torch.arange(WIDTH, device=heads.device).expand(len(heads), -1).contiguous()
        owner = torch.searchsorted(ends, places, right=True).clamp(max=heads.shape[1] - 1)
        before = F.pad(ends, (1, 0))[:, :-1]
        rows = starts.gather(1, owner) + places - before.gather(1, owner)
        facts = self._members[rows.clamp(max=len(self._members) - 1)]
        facts = facts.masked_fill((places >= ends[:, -1:]) | self._gone[facts], -1)
        among = self._triples[0][self._late.clamp(min=0)][:, None] == heads[:, None]
        of = among.int().argmax(dim=-1)
        late = self._late.expand(len(heads), -1).masked_fill(~(among.any(dim=-1) & (self._late >= 0)), -1)
        facts, owner = torch.cat([facts, late], dim=1), torch.cat([owner, of], dim=1)
        order = torch.where(facts < 0, heads.shape[1], owner) * len(self._gone) + facts
        order = order.argsort(dim=1)
        return facts.gather(1, order), owner.gather(1, order), ends[:, -1] > WIDTH
