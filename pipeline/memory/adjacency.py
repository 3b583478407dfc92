"""Which facts belong to which head and slot, as arrays that a batch of searches reads at once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Expanded = tuple[Int[Tensor, "B W"], Int[Tensor, "B W"], Bool[Tensor, "B W"]]
"""Facts of a row's groups one after the other, the column of each one's group, and which are real."""


@dataclass(frozen=True)
class Groups:
    """Members of groups in compressed rows: those of group g are `members[start[g]:start[g + 1]]`."""

    start: Int[Tensor, " G"]
    members: Int[Tensor, " M"]

    @classmethod
    def of(cls, group: np.ndarray, members: np.ndarray, count: int, device: torch.device) -> "Groups":
        """Return the groups of `members`, where `group[i]` is the group of `members[i]`, in their order."""
        order = np.argsort(group, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))])
        return cls(torch.from_numpy(start).to(device), torch.from_numpy(members[order]).to(device))

    def expand(self, groups: Int[Tensor, "B n"]) -> Expanded:
        """Return the members of each row's groups, in the groups' order, padded to the longest row.

        Group -1 has none.
        """
        counts = (self.start[groups + 1] - self.start[groups]).masked_fill(groups < 0, 0)
        ends = counts.cumsum(dim=-1)
        width = max(1, int(ends[:, -1].max()) if ends.numel() else 1)
        places = torch.arange(width, device=groups.device).expand(len(groups), width).contiguous()
        owner = torch.searchsorted(ends, places, right=True).clamp(max=groups.shape[1] - 1)
        valid = places < ends[:, -1:]
        within = places - (ends - counts).gather(1, owner)
        rows = (self.start[groups].gather(1, owner) + within).clamp(max=max(len(self.members) - 1, 0))
        if not len(self.members):
            return torch.full_like(rows, -1), owner, torch.zeros_like(valid)
        return self.members[rows].masked_fill(~valid, -1), owner, valid

    @cached_property
    def empty(self) -> int:
        """The number of groups without a member."""
        return int((self.start[1:] == self.start[:-1]).sum())

    @cached_property
    def filled(self) -> Int[Tensor, " n"]:
        """The groups that have a member."""
        return torch.nonzero(self.start[1:] > self.start[:-1])[:, 0]

    def __getitem__(self, group: int) -> list[int]:
        if group + 1 >= len(self.start):  # a group that came after these were built
            return []
        members: list[int] = self.members[self.start[group] : self.start[group + 1]].tolist()
        return members


class Adjacency:
    """The live facts of a memory by head and by slot.

    Args:
        triples: head, relation and tail of every fact.
        slot: slot of every fact; zeros where the layout has none.
        alive: which facts hold.
        entities: number of entities.
        slots: number of slots, 0 where the layout has none.
        device: where searches run.
    """

    def __init__(
        self,
        triples: Int[np.ndarray, "M 3"],
        slot: Int[np.ndarray, " M"],
        alive: Bool[np.ndarray, " M"],
        entities: int,
        slots: int,
        device: torch.device,
    ) -> None:
        live = np.flatnonzero(alive)
        self.head = torch.from_numpy(triples[:, 0].copy()).to(device)
        self.relation = torch.from_numpy(triples[:, 1].copy()).to(device)
        self.tail = torch.from_numpy(triples[:, 2].copy()).to(device)
        self.slot = torch.from_numpy(slot).to(device)
        self.by_head = Groups.of(triples[live, 0], live, entities, device)
        self.facts = len(triples)
        """How many facts there are, of which some may not hold."""
        self.by_slot = Groups.of(slot[live], live, max(slots, 1), device)
