"""How much attention the last queries of a prompt give to each of its keys."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BLOCK = 4096
"""Keys whose attention is computed at once, so that memory doesn't grow with the prompt's square."""


def received(
    queries: Float[Tensor, "B H W D"], keys: Float[Tensor, "B G N D"], power: int = 1, block: int = BLOCK
) -> Float[Tensor, "B G N"]:
    """Return the attention that the last W queries give to each key, summed over them and their group.

        M[g, j] = Σ_{h ∈ group g} Σ_{i ≥ N − W} A[h, i, j] ^ power

    Args:
        queries: of the last W tokens, rotated.
        keys: of all tokens, rotated.
        power: 1 as in SnapKV (arXiv 2404.14469), 2 as in KV-Compress (arXiv 2410.00161, section 4.3).
        block: keys at once.
    """
    rows, groups, length, size = keys.shape
    width = queries.shape[2]
    stacked = queries.reshape(rows, groups, -1, size) * size**-0.5  # B G (H/G · W) D
    own = torch.arange(length - width, length, device=keys.device)
    places = own.repeat(queries.shape[1] // groups)[:, None]

    def logits(start: int) -> Tensor:
        part = keys[:, :, start : start + block]
        later = torch.arange(start, start + part.shape[2], device=keys.device) > places
        scores: Tensor = (stacked @ part.transpose(2, 3)).float()
        return scores.masked_fill(later, -torch.inf)

    starts = range(0, length, block)
    total = torch.full(stacked.shape[:3], -torch.inf, device=keys.device)
    for start in starts:
        total = torch.logaddexp(total, logits(start).logsumexp(dim=-1))
    sums = [(logits(start) - total[..., None]).exp().pow(power).sum(dim=2) for start in starts]
    return torch.cat(sums, dim=-1)


def pooled(scores: Float[Tensor, "B G N"], width: int, kind: str) -> Float[Tensor, "B G N"]:
    """Return the `mean` or `max` of each score and its neighbours, `width` in all (an odd number)."""
    pool = F.max_pool1d if kind == "max" else F.avg_pool1d
    result: Tensor = pool(scores, width, stride=1, padding=width // 2)
    return result
