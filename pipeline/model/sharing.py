r"""A batch shared out among processes, whose mean losses add up to those of the whole batch.

A loss is a mean over what a batch holds: answers' tokens, questions with a target. The processes hold
different numbers n_r of them, so the mean of their means is not the mean of the batch. Each weighs its own
mean by W·n_r / Σ n, with W processes: averaged over them, as `DistributedDataParallel` averages gradients,

    1/W · Σ_r (W·n_r / Σ n) · mean_r = Σ_r sum_r / Σ n,

which is what one process makes of the whole batch. What the questions of a batch are to each other, facts
that are wrong for the others, stays as it was too: `whole` gives it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Item = TypeVar("Item")


class Share(NamedTuple):
    """What is known of the batch while a process computes its part."""

    batch: Sequence[Any]
    world: int
    device: torch.device


_NOW: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def shared(batch: Sequence[Item], rank: int, world: int, device: torch.device) -> Iterator[Sequence[Item]]:
    """Give this process its items of a batch that all of them hold: every `world`-th from `rank` on.

    Inside the block every process must ask for the same means in the same order, also for those to which
    it has nothing to add.

    Raises:
        ValueError: there are fewer items than processes.
    """
    if len(batch) < world:
        raise ValueError(f"a batch of {len(batch)} can't be shared out among {world} processes")
    token = _NOW.set(Share(batch, world, device) if world > 1 else None)
    try:
        yield batch[rank::world] if world > 1 else batch
    finally:
        _NOW.reset(token)


def whole(batch: Sequence[Item]) -> Sequence[Item]:
    """Return the batch that `batch` is this process's share of; itself, where it is no share."""
    share = _NOW.get()
    return batch if share is None else share.batch


def weighed(mean: Float[Tensor, ""], count: int | Tensor) -> Float[Tensor, ""]:
    """Return the mean of `count` items of this process as its part of the mean over all processes.

    Alone it is the mean itself; see the module. A process without any such items gives a 0 of count 0.
    """
    share = _NOW.get()
    if share is None:
        return mean
    own = torch.as_tensor(count, device=share.device).float()
    total = own.clone()
    dist.all_reduce(total)
    return mean * (share.world * own / total.clamp(min=1))


def averaged(figures: dict[str, Tensor], device: torch.device) -> dict[str, float]:
    """Return the figures of a step, averaged over the processes, which name them alike."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return {name: float(value.detach()) for name, value in figures.items()}
    row = torch.stack([value.detach().to(device).float() for value in figures.values()])
    dist.all_reduce(row)
    return dict(zip(figures, (row / dist.get_world_size()).tolist(), strict=True))
