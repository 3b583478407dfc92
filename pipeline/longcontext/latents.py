"""What older tokens are kept as: rows of low-rank latents, keys and values side by side, in few bytes."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.longcontext.lowrank import Bases, Basis
from pipeline.longcontext.quantised import BITS, packed, unpacked, width

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SPREADING_SEED = 0


class Latents:
    """Turns keys and values into rows and back.

    In int8 and int4 the numbers of a row share one scale, which the largest would take for itself: the first
    singular directions have ten times the spread of the last. The basis is therefore turned within the
    subspace that it spans, which loses nothing and spreads the variance evenly (QuaRot, arXiv 2404.00456).

    Args:
        bases: of the layers in question; None where both ranks are 0.
        rank_keys: numbers kept of a key; 0 keeps it as it is.
        rank_values: numbers kept of a value; 0 keeps it as it is.
        precision: int8, int4, float16, bfloat16 or float32.
        block: tokens of a block.
        groups: KV heads, G.
        size: numbers of a head, D.
        device: where it is computed.

    Raises:
        ValueError: a rank without a basis, or above its size.
    """

    def __init__(
        self,
        bases: Bases | None,
        rank_keys: int,
        rank_values: int,
        precision: str,
        block: int,
        groups: int,
        size: int,
        device: torch.device | str,
    ) -> None:
        self.precision, self.block, self.groups = precision, block, groups
        self.bits = BITS.get(precision)
        self.ranks = rank_keys or groups * size, rank_values or groups * size
        self._keys = self._cut(None if bases is None else bases.keys, rank_keys, device)
        self._values = self._cut(None if bases is None else bases.values, rank_values, device)

    def _cut(
        self, basis: Basis | None, rank: int, device: torch.device | str
    ) -> tuple[Tensor, Tensor] | None:
        if not rank:
            return None
        if basis is None or rank > basis.spectrum.shape[1]:
            size = "no basis" if basis is None else f"a basis of {basis.spectrum.shape[1]} numbers"
            raise ValueError(f"a rank of {rank} with {size}")
        directions = basis.directions[:, :, :rank]
        if self.bits:
            noise = torch.randn(rank, rank, generator=torch.Generator().manual_seed(SPREADING_SEED))
            directions = directions @ torch.linalg.qr(noise).Q
        return basis.centre[:, None].to(device), directions.contiguous().to(device)

    def encode(
        self, keys: Float[Tensor, "layers B G T D"], values: Float[Tensor, "layers B G T D"]
    ) -> Shaped[Tensor, "n B layers block width"]:
        """Return the rows of n = T / block blocks."""
        sides = [_project(keys, self._keys), _project(values, self._values)]
        if self.bits:
            rows = torch.cat([packed(side, self.bits) for side in sides], dim=-1)
        else:
            rows = torch.cat(sides, dim=-1).to(DTYPES[self.precision])
        layers, batch, tokens, taken = rows.shape
        blocks = rows.view(layers, batch, tokens // self.block, self.block, taken)
        return blocks.permute(2, 1, 0, 3, 4).contiguous()

    def decode(
        self, rows: Shaped[Tensor, "B k layers block width"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "layers B G T D"], Float[Tensor, "layers B G T D"]]:
        """Return keys and values of T = k · block tokens, as far as their rows tell them.

        Args:
            rows: as `encode` gave them.
            dtype: of what is returned.
        """
        laid = rows.permute(2, 0, 1, 3, 4).flatten(2, 3)
        inside = width(self.ranks[0], self.bits) if self.bits else self.ranks[0]
        keys = self._numbers(laid[..., :inside], self.ranks[0])
        values = self._numbers(laid[..., inside:], self.ranks[1])
        return (
            _restore(keys, self._keys, self.groups, dtype),
            _restore(values, self._values, self.groups, dtype),
        )

    def _numbers(self, rows: Tensor, rank: int) -> Float[Tensor, "layers B T R"]:
        return unpacked(rows, rank, self.bits) if self.bits else rows.float()


def _project(
    part: Float[Tensor, "layers B G T D"], cut: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "layers B T R"]:
    rows = part.transpose(2, 3).flatten(3).float()
    if cut is None:
        return rows
    centre, directions = cut
    flat = (rows.flatten(1, 2) - centre) @ directions
    return flat.view(*rows.shape[:3], directions.shape[-1])


def _restore(
    rows: Float[Tensor, "layers B T R"], cut: tuple[Tensor, Tensor] | None, groups: int, dtype: torch.dtype
) -> Float[Tensor, "layers B G T D"]:
    if cut is not None:
        centre, directions = cut
        flat = torch.baddbmm(centre, rows.flatten(1, 2), directions.transpose(1, 2))
        rows = flat.view(*rows.shape[:3], directions.shape[1])
    heads = rows.view(*rows.shape[:3], groups, -1).transpose(2, 3)
    return heads.to(dtype)
