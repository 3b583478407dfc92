"""The best facts of given heads where tensors are: `pipeline.memory.slots` for a base's facts on a GPU.

Copied are the relation of each fact and where the facts of each head begin; heads, tails and names are asked
for by what is found, and stay where they are.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.base import Base
from pipeline.memory.facts import Candidates, Found
from pipeline.memory.resident import COPIED, copied
from pipeline.memory.slots import HUB


class Stretches(NamedTuple):
    """Facts from one id to below another that a question looks at."""

    pair: Int[Tensor, " n"]
    """Which (question, head) each is of, as they were given."""
    start: Int[Tensor, " n"]
    end: Int[Tensor, " n"]


class ResidentFacts:
    """The facts of a base by their heads, on a device.

    Args:
        base: the facts.
        device: where to.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.entities = base.entities
        self._kinds = len(base.relation_keys)
        self._starts = torch.empty(base.entities + 1, dtype=torch.long, device=device)
        for first in range(0, base.entities + 1, COPIED):
            rows = np.arange(first, min(first + COPIED, base.entities + 1))
            self._starts[first : first + COPIED] = torch.from_numpy(base.starts[rows])
        base.starts.untouched()
        narrow = base.relations.dtype.itemsize == 1
        kind = torch.uint8 if narrow else torch.int16
        self._relations = torch.empty(len(base.relations), dtype=kind, device=device)
        copied(base.relations if narrow else base.relations.view(np.int16), self._relations)

    def headed(self, rows: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Return which entities head a fact."""
        return self._starts[rows + 1] > self._starts[rows]

    def relations(self, facts: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return the relation of facts."""
        return self._relations[facts].long() & 0xFFFF

    def found(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        dead: Int[Tensor, " d"],
        hub: int = HUB,
    ) -> Found:
        """Return the n best facts of each question's heads; see `pipeline.memory.slots.search`.

        Args:
            heads: entities of the base, and -1 or a closeness of -inf where a question has fewer.
            near: how well each fits, in nats.
            relation_log_probabilities: of each relation of the base and, behind them, of any others.
            weight: of a relation's log-probability.
            n: facts wanted.
            dead: ids of the facts that no longer hold, ascending.
            hub: facts up to which every one of a head is scored.
        """
        near, shares = near.float(), relation_log_probabilities.float()
        width = heads.shape[1]
        rows = heads.clamp(min=0).reshape(-1)
        start, end = self._starts[rows], self._starts[rows + 1]
        end = torch.where((heads >= 0) & (near > -torch.inf), end.view_as(heads), start.view_as(heads)).view(
            -1
        )
        pair = torch.arange(len(rows), device=heads.device)
        looked_at = Stretches(pair, start, end)
        left_out = torch.zeros(len(heads), dtype=torch.long, device=heads.device)
        crowded = end - start > max(hub, n)
        if bool(crowded.any()):
            hubs = Stretches(*(column[crowded] for column in looked_at))
            of = hubs.pair // width
            scores = near.reshape(-1)[hubs.pair, None] + weight * shares[of, : self._kinds]
            best, without = self._best(hubs, scores, n, dead)
            left_out.index_add_(0, of, without)
            others = (column[~crowded] for column in looked_at)
            columns = [torch.cat(columns) for columns in zip(others, best, strict=True)]
            order = columns[0].argsort(stable=True)
            looked_at = Stretches(*(column[order] for column in columns))
        facts, pair = _expanded(looked_at, dead)
        of = pair // width
        entity, relation = near.reshape(-1)[pair], shares[of, self.relations(facts)]
        scores = entity + weight * relation
        order = scores.argsort(descending=True, stable=True)
        order = order[of[order].argsort(stable=True)]
        column = torch.arange(len(order), device=of.device) - torch.searchsorted(of, of[order])
        some = (column < n) & (scores[order] > -torch.inf)
        order, column = order[some], column[some]
        table = Candidates.none(len(heads), n, heads.device)
        kept = Candidates(*(part.clone() for part in table))
        places = torch.zeros_like(kept.facts)
        targets = kept.facts, kept.scores, kept.entity, kept.relation, places
        at = of[order], column
        for target, values in zip(targets, (facts, scores, entity, relation, pair % width), strict=True):
            target[at] = values[order]
        return Found(kept, places, left_out)

    def _best(
        self, hubs: Stretches, scores: Float[Tensor, "h R"], n: int, dead: Int[Tensor, " d"]
    ) -> tuple[Stretches, Int[Tensor, " h"]]:
        """Return where the n best facts of hubs are, slot by slot, and how many others of each hold.

        Args:
            hubs: all of their facts.
            scores: of the slots, by relation.
            n: facts wanted of each.
            dead: facts that don't hold, ascending.
        """
        begins = self._begins(hubs)
        lengths = begins.diff(dim=1)
        gone = torch.searchsorted(dead, begins).diff(dim=1)
        hold = lengths - gone
        order = scores.masked_fill(hold == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        held = hold.gather(1, order)
        before = held.cumsum(dim=1) - held
        hub, rank = ((before < n) & (held > 0)).nonzero(as_tuple=True)
        slot = order[hub, rank]
        # As many as are wanted hold among so many and the dead ones; those beyond fall behind.
        some = (n - before[hub, rank]).minimum(held[hub, rank]) + gone[hub, slot]
        start = begins[hub, slot]
        ends = start + some.minimum(lengths[hub, slot])
        return Stretches(hubs.pair[hub], start, ends), (hold.sum(dim=1) - n).clamp(min=0)

    def _begins(self, hubs: Stretches) -> Int[Tensor, "h R1"]:
        """Return where each slot of hubs begins, and where the last one ends, halving what is left of all."""
        wanted = torch.arange(self._kinds + 1, device=hubs.start.device).expand(len(hubs.start), -1)
        start, end = (part[:, None].expand_as(wanted) for part in hubs[1:])
        for _ in range(int((hubs.end - hubs.start).amax()).bit_length()):
            middle = (start + end) // 2
            later = self.relations(middle.clamp(max=len(self._relations) - 1)) >= wanted
            open_ = start < end
            start, end = (
                torch.where(open_ & ~later, middle + 1, start),
                torch.where(open_ & later, middle, end),
            )
        return start


def _expanded(stretches: Stretches, dead: Int[Tensor, " d"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Return the facts of stretches that hold, and the pair that each is of."""
    lengths = stretches.end - stretches.start
    owner = torch.repeat_interleave(lengths)
    shift = stretches.start - (lengths.cumsum(dim=0) - lengths)
    facts, pair = torch.arange(len(owner), device=owner.device) + shift[owner], stretches.pair[owner]
    if len(dead):
        place = torch.searchsorted(dead, facts).clamp(max=len(dead) - 1)
        holds = dead[place] != facts
        facts, pair = facts[holds], pair[holds]
    return facts, pair
