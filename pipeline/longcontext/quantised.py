"""Numbers in eight bits with a scale a row, packed into one array of bytes."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

SCALE_BYTES = 2
"""Of a row's scale, a half."""
LEAST_SCALE = 6.2e-5
"""The smallest scale that a half holds with all its digits."""


def packed(rows: Float[Tensor, "*rows R"]) -> Int8[Tensor, "*rows packed"]:
    """Return x ≈ c·s of each row, c in −127…127 and s = max|x| / 127, as R + 2 bytes: c, then s as a half.

    No number is wrong by more than s / 2.
    """
    scale = (rows.abs().amax(dim=-1, keepdim=True).float() / 127).clamp(min=LEAST_SCALE).half()
    codes = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([codes, scale.view(torch.int8)], dim=-1)


def unpacked(rows: Int8[Tensor, "*rows packed"]) -> Float[Tensor, "*rows R"]:
    """Return what `packed` packed, in float32."""
    scale = rows[..., -SCALE_BYTES:].contiguous().view(torch.float16)
    return rows[..., :-SCALE_BYTES].float() * scale.float()
