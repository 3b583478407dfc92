"""Numbers in eight or four bits with a scale a row, packed into one array of bytes."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

BITS = {"int8": 8, "int4": 4}
SCALE_BYTES = 2
"""Of a row's scale, a half."""
LEAST_SCALE = 6.2e-5
"""The smallest scale that a half holds with all its digits."""


def width(numbers: int, bits: int) -> int:
    """Return the bytes of a packed row of so many numbers."""
    return -(-numbers * bits // 8) + SCALE_BYTES


def packed(rows: Float[Tensor, "*rows R"], bits: int = 8) -> Int8[Tensor, "*rows packed"]:
    """Return x ≈ c·s of each row, c a whole number, and s = max|x| / most: bytes of c, then s as a half.

    No number is wrong by more than s / 2, but for the rounding of s.

    Args:
        rows: what is packed.
        bits: 8 (c within ±127) or 4 (c within ±7; two in a byte, the first R / 2 beside the others).
    """
    most = 2 ** (bits - 1) - 1
    scale = (rows.abs().amax(dim=-1, keepdim=True).float() / most).clamp(min=LEAST_SCALE).half()
    codes = (rows / scale.float()).round().clamp(-most, most).to(torch.int8)
    if bits == 4:
        if codes.shape[-1] % 2:
            codes = torch.nn.functional.pad(codes, (0, 1))
        low, high = codes.chunk(2, dim=-1)
        codes = (low & 15) | (high << 4)
    return torch.cat([codes, scale.view(torch.int8)], dim=-1)


def unpacked(rows: Int8[Tensor, "*rows packed"], numbers: int, bits: int = 8) -> Float[Tensor, "*rows R"]:
    """Return what `packed` packed, rows of so many numbers, in float32."""
    codes, scale = rows[..., :-SCALE_BYTES], rows[..., -SCALE_BYTES:].contiguous().view(torch.float16)
    if bits == 4:
        codes = torch.cat([(codes << 4) >> 4, codes >> 4], dim=-1)[..., :numbers]  # shifts keep the sign
    return codes.float() * scale.float()
