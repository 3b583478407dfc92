"""A frozen language model whose layers are shared out among processes (FSDP): for one that no GPU can hold.

Each process keeps its part of every layer, and all put a layer together while they compute it. So all of them
must compute with the model equally often: `rounds` and `along` see to it where the data would have it
otherwise. Embeddings and the head stay whole. Adapters do too: they are small, and read outside of the model.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.model.lowrank import decoder_layers


def shard(lm: Any, device: torch.device) -> Any:
    """Share out the layers of `lm`, which lies in main memory, among all processes; return it, on `device`.

    One layer at a time comes to the device as a whole.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    # A group of its own: what the processes say of gradients at the same time must not come in between.
    mesh = DeviceMesh.from_group(dist.new_group(), device.type)
    for layer in decoder_layers(lm):
        fully_shard(layer, mesh=mesh)
    lm.sharded = True
    return lm.to(device)


def sharded(lm: Any) -> bool:
    """Return whether the layers of `lm` are shared out."""
    return getattr(lm, "sharded", False)


def rounds(lm: Any, own: int) -> int:
    """Return how often every process computes with `lm` if this one wants to `own` times: the most of all."""
    if not sharded(lm):
        return own
    most = torch.tensor(own, device=lm.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def along(lm: Any, tokens: Tensor) -> Tensor:
    """Return the 0 of a process that has nothing to learn in a step in which others have.

    It computes forward and backward with them, on any `tokens` [B, T].
    """
    logits: Tensor = lm(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
    return 0.0 * logits.float().mean()


def whole(weight: Tensor) -> Tensor:
    """Return a weight as a whole, whether or not it is shared out; all processes ask for it together."""
    full = getattr(weight, "full_tensor", None)
    return weight if full is None else full()
