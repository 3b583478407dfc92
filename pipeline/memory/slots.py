"""The best facts of given heads in a base: the second half of the factored layout's search.

A fact (h, r, t) scores near_h + w · log p_r, as in `pipeline.memory.scoring`, so that the facts of one slot
score alike. Of a head with many facts only the slots that score best are looked into, as far as n facts that
hold: no other fact of it could be among the n best. How many facts were left out that way is counted.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.memory.base import Base
from pipeline.memory.facts import Candidates, Found
from pipeline.memory.offsets import Ranges, Rows, expand

HUB = 4096
"""A head of more facts is a hub: all of its slots are scored, but not each of its facts."""
NONE = np.empty(0, np.int64)


def search(
    base: Base,
    heads: Int[Tensor, "B n"],
    near: Float[Tensor, "B n"],
    relation_log_probabilities: Float[Tensor, "B R"],
    weight: float,
    n: int,
    dead: Rows = NONE,
    hub: int = HUB,
) -> Found:
    """Return the n best facts of each question's heads, best first; ties go by the heads' order, then by id.

    Args:
        base: where the facts are.
        heads: entities to look into, and -1 or a closeness of -inf where a question has fewer.
        near: how well each fits, in nats.
        relation_log_probabilities: of each relation of the base and, behind them, of any others.
        weight: of a relation's log-probability.
        n: facts wanted.
        dead: ids of the facts that no longer hold, ascending.
        hub: facts up to which every one of a head is scored.
    """
    questions = len(heads)
    closeness = near.float().cpu().numpy()
    shares = relation_log_probabilities.float().cpu().numpy()
    asked, place = np.nonzero((heads.cpu().numpy() >= 0) & (closeness > -np.inf))
    ranges = base.starts.ranges(heads.cpu().numpy()[asked, place].astype(np.int64))
    left_out = np.zeros(questions, np.int64)
    parts, owner = [ranges], np.arange(len(asked))
    hubs = np.flatnonzero(ranges.end - ranges.start > max(hub, n))
    if len(hubs):
        whole = np.setdiff1d(owner, hubs)
        parts, owners = [Ranges(ranges.start[whole], ranges.end[whole])], [whole]
        known: dict[int, _Hub] = {}  # questions of a batch often share theirs
        for pair in hubs.tolist():
            start, end = int(ranges.start[pair]), int(ranges.end[pair])
            if start not in known:
                known[start] = _Hub(base, start, end, dead)
            scores = closeness[asked[pair], place[pair]] + weight * shares[asked[pair]]
            best, without = known[start].best(scores, n)
            parts.append(best)
            owners.append(np.full(len(best.start), pair))
            left_out[asked[pair]] += without
        owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    starts, ends = (np.concatenate(columns)[order] for columns in zip(*parts, strict=True))
    ids, of = expand(Ranges(starts, ends))
    pair = owner[order][of]
    if len(dead):
        kept = ~_among(ids, dead)
        ids, pair = ids[kept], pair[kept]
    entity = closeness[asked[pair], place[pair]]
    relation = shares[asked[pair], base.relations[ids]]
    scores = entity + weight * relation
    cuts = np.searchsorted(asked[pair], np.arange(questions + 1))
    found = _Table(questions, n)
    for question in range(questions):
        best = cuts[question] + _largest(scores[cuts[question] : cuts[question + 1]], n)
        found.put(question, ids[best], scores[best], entity[best], relation[best], place[pair[best]])
    return Found(found.candidates(), torch.from_numpy(found.places), torch.from_numpy(left_out))


class _Hub:
    """The slots of one head.

    Args:
        base: where its facts are.
        start: its first id.
        end: the id behind its last one.
        dead: ids of the facts that don't hold, ascending.
    """

    def __init__(self, base: Base, start: int, end: int, dead: Rows) -> None:
        here = base.relations[start:end]
        relations = np.arange(len(base.relation_keys))
        begins = start + np.searchsorted(here, relations.astype(here.dtype))
        ends = np.append(begins[1:], end)
        hold = ends - begins - np.diff(np.searchsorted(dead, np.append(begins, end)))
        self._relations = np.flatnonzero(hold)
        self._begins, self._ends, self._hold = (part[self._relations] for part in (begins, ends, hold))
        self._dead = dead

    def best(self, scores: NDArray[np.float32], n: int) -> tuple[Ranges, int]:
        """Return ranges of the n best facts, the best slot's first, and how many others hold.

        Args:
            scores: of the slots, by relation.
            n: facts wanted; where fewer hold, those are all.
        """
        order = np.argsort(-scores[self._relations], kind="stable")
        reached = self._hold[order].cumsum()
        taken = order[: int(np.searchsorted(reached, n)) + 1]
        limits = self._ends[taken]
        if len(taken):
            last = taken[-1]
            rest = n - int(self._hold[taken[:-1]].sum())
            limits[-1] = _as_far(int(self._begins[last]), int(limits[-1]), rest, self._dead)
        return Ranges(self._begins[taken], limits), max(0, int(self._hold.sum()) - n)


def _largest(scores: NDArray[np.float32], n: int) -> Rows:
    """Return the places of the n largest that are above -inf, largest first, then by place."""
    least = np.partition(scores, len(scores) - n)[len(scores) - n] if len(scores) > n else -np.inf
    among = np.flatnonzero((scores >= least) & (scores > -np.inf))
    best: Rows = among[np.argsort(-scores[among], kind="stable")][:n]
    return best


def _as_far(start: int, end: int, count: int, dead: Rows) -> int:
    """Return the id behind the first `count` facts from `start` on that hold, at most `end`."""
    limit = start + count
    while limit < end:
        wider = start + count + int(np.diff(np.searchsorted(dead, [start, limit]))[0])
        if wider == limit:
            break
        limit = wider
    return min(limit, end)


def _among(ids: Rows, dead: Rows) -> Bool[np.ndarray, " n"]:
    """Return which of `ids` are in `dead`, which ascends and is not empty."""
    place = np.searchsorted(dead, ids).clip(max=len(dead) - 1)
    among: Bool[np.ndarray, " n"] = dead[place] == ids
    return among


class _Table:
    """The facts found for each question, filled up to n."""

    def __init__(self, questions: int, n: int) -> None:
        self.facts = np.full((questions, n), -1)
        self.scores = np.full((questions, n), -np.inf, np.float32)
        self.entity = np.zeros((questions, n), np.float32)
        self.relation = np.zeros((questions, n), np.float32)
        self.places = np.zeros((questions, n), np.int64)

    def put(self, question: int, *columns: NDArray[Any]) -> None:
        """Write the row of `question`."""
        tables: tuple[NDArray[Any], ...] = (self.facts, self.scores, self.entity, self.relation, self.places)
        for table, column in zip(tables, columns, strict=True):
            table[question, : len(column)] = column

    def candidates(self) -> Candidates:
        """Return what was found."""
        facts, scores, entity, relation = (
            torch.from_numpy(table) for table in (self.facts, self.scores, self.entity, self.relation)
        )
        return Candidates(facts, scores, entity, relation, torch.full_like(facts, -1))
