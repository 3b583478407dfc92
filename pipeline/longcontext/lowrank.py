"""Low-rank latents of keys and values: bases from calibration texts, and what cutting them loses.

Signatures only for now.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """x ≈ centre + (x − centre) V_r V_rᵀ, a row x being all KV heads of a token side by side (E = G·D)."""

    centre: Float[Tensor, "layers E"]
    directions: Float[Tensor, "layers E E"]
    """Right singular vectors in columns, of falling singular value."""
    spectrum: Float[Tensor, "layers E"]
    """Singular values of the centred calibration matrix."""
    count: int
    """Its rows: tokens."""


@dataclass(frozen=True)
class Bases:
    """The bases of layers `first`, `first` + 1, …"""

    first: int
    keys: Basis
    values: Basis

    def save(self, file: Path) -> None:
        """Write all of it to one safetensors file."""
        raise NotImplementedError

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or no such file.
        """
        raise NotImplementedError


class Calibration:
    """Gathers what bases are made of: `add` (or wrap a context with `through`), then `bases()`."""

    def __init__(self, first: int, layers: int, size: int) -> None:
        raise NotImplementedError

    def add(self, layer: int, keys: Float[Tensor, "B G T D"], values: Float[Tensor, "B G T D"]) -> None:
        """Take the keys (before rotation) and values of one chunk of one layer."""
        raise NotImplementedError

    def bases(self) -> Bases:
        """Return the bases of all that was added."""
        raise NotImplementedError
