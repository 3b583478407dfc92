"""Which facts a question reads and where they stand, computed where they were found.

It is what `OurSystem.chosen` and `FactArena.read` do, as far as facts are `Known`: the host, which does it
after, finds out whether it agrees.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.known import Known
from pipeline.model.ours import OurSystem
from pipeline.model.selection import shares


class Choice(NamedTuple):
    """What B questions read, as far as it is known."""

    facts: Int[Tensor, "B k"]
    """By falling share; -1 behind those that are read."""
    log_shares: Float[Tensor, "B k"]
    """Of the k best facts, by falling share."""
    places: Int[Tensor, "B J"]
    shifts: Float[Tensor, "B J"]


def choose(
    system: OurSystem,
    known: Known,
    facts: Int[Tensor, "B k"],
    scores: Float[Tensor, "B k"],
    slots: Int[Tensor, "2 B k"],
    null: Float[Tensor, "B 1"],
    width: int,
    hidden: float,
) -> Choice:
    """Return what is read of the k best facts.

    Args:
        system: how shares are computed, and how many facts are enough.
        known: where facts stand.
        facts: by falling score, -1 where there is none.
        scores: of the facts.
        slots: rows of their heads and relations.
        null: score of the null fact.
        width: J; the facts' tokens take the last places.
        hidden: the shift of a place that isn't taken.
    """
    method = system.method
    none, held = facts < 0, facts.clamp(min=0)
    penalty = method.slot_gap * _before(slots, known.order[held].masked_fill(none, -1), none)
    log_shares = shares(scores, null, system.temperature, penalty).facts
    order = log_shares.sort(dim=-1, descending=True, stable=True).indices
    log_shares, facts = log_shares.gather(1, order), facts.gather(1, order)
    read = (facts >= 0) & _wanted(log_shares, method.mass)
    entries = known.entry[facts.clamp(min=0)].long()
    lengths = known.lengths[entries].masked_fill(~read, 0)
    ends = lengths.cumsum(dim=-1)
    token = torch.arange(width, device=facts.device) - width + ends[:, -1:]
    owner = (token[..., None] >= ends[:, None]).sum(dim=-1).clamp(max=facts.shape[1] - 1)
    within = token - (ends - lengths).gather(1, owner)
    places = known.places[entries.gather(1, owner), within.clamp(min=0, max=known.places.shape[1] - 1)]
    shifts = log_shares if method.shift else torch.zeros_like(log_shares)
    return Choice(
        facts.masked_fill(~read, -1),
        log_shares,
        places.masked_fill(token < 0, 0),
        shifts.gather(1, owner).masked_fill(token < 0, hidden),
    )


def _before(
    slots: Int[Tensor, "2 B k"], order: Int[Tensor, "B k"], none: Bool[Tensor, "B k"]
) -> Int[Tensor, "B k"]:
    """Return how many facts of each one's slot come before it; see `pipeline.model.selection.spread`."""
    slots = slots.masked_fill(none, -1)
    alike = (slots[..., None] == slots[:, :, None]).all(dim=0)
    count = order.shape[1]
    earlier = torch.ones(count, count, dtype=torch.bool, device=order.device).tril(-1)
    first, second = order[:, None], order[..., None]
    return (alike & ((first < second) | ((first == second) & earlier))).sum(dim=-1)


def _wanted(log_shares: Float[Tensor, "B k"], mass: float) -> Bool[Tensor, "B k"]:
    """Return which facts are read if all are there; see `pipeline.model.selection.enough`."""
    if mass >= 1:
        return torch.ones_like(log_shares, dtype=torch.bool)
    before = F.pad(log_shares.exp().double(), (1, 0)).cumsum(dim=-1)[:, :-1]
    return before < mass
