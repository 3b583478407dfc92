"""Low-rank bases of keys and values, from calibration texts, and what a rank loses.

A row x is what one layer keeps of one token: all its KV heads side by side, E = G·D numbers. With the mean μ
of the calibration rows, and the singular value decomposition X − μ = U Σ Vᵀ of their matrix,

    x ≈ μ + V_r V_rᵀ (x − μ),

of which only the r numbers V_rᵀ (x − μ) are kept. No basis of rank r loses less of X − μ in Frobenius norm
than this one, √Σ_{i>r} σ_i² (Eckart and Young, 1936). Keys are taken before rotation: positions would blur
the subspace that they lie in (Palu, arXiv 2407.21118; ShadowKV, arXiv 2410.21465).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import UserError
from pipeline.longcontext.context import Context, Held, Seen
from pipeline.longcontext.running import Runner
from pipeline.shapes import TokenIds


@dataclass(frozen=True)
class Basis:
    """What the rows of keys, or of values, are projected with."""

    centre: Float[Tensor, "layers E"]
    """μ."""
    directions: Float[Tensor, "layers E E"]
    """V, its columns by falling singular value."""
    spectrum: Float[Tensor, "layers E"]
    """σ, falling."""

    def bound(self, rank: int) -> Float[Tensor, " layers"]:
        """Return √Σ_{i>r} σ_i²: what is lost of the calibration rows, in Frobenius norm."""
        return self.spectrum[:, rank:].square().sum(dim=-1).sqrt()

    def lost(self, rank: int) -> Float[Tensor, " layers"]:
        """Return the share of the calibration rows' variance that is lost, Σ_{i>r} σ_i² / Σ σ_i²."""
        return self.bound(rank).square() / self.bound(0).square()

    def error(self, layer: int, rows: Float[Tensor, "n E"], rank: int) -> Float[Tensor, ""]:
        """Return what is lost of any rows of one layer (from 0 for the first that has a basis), Frobenius."""
        centred = rows - self.centre[layer]
        cut = self.directions[layer, :, :rank]
        lost: Tensor = torch.linalg.matrix_norm(centred - centred @ cut @ cut.T)
        return lost


@dataclass(frozen=True)
class Bases:
    """The bases of layers `first`, `first` + 1, … of a decoder."""

    first: int
    keys: Basis
    values: Basis

    def save(self, file: Path) -> None:
        """Write all of it to one safetensors file."""
        parts = {"first": torch.tensor(self.first)}
        for name, basis in (("keys", self.keys), ("values", self.values)):
            parts |= {f"{name}.{part}": tensor.contiguous() for part, tensor in vars(basis).items()}
        save_file(parts, file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged or another one.
        """
        try:
            parts = load_file(file)
            keys, values = (
                Basis(*(parts[f"{name}.{part}"] for part in ("centre", "directions", "spectrum")))
                for name in ("keys", "values")
            )
            return cls(int(parts["first"]), keys, values)
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(
                f"{file}: holds no bases ({type(error).__name__}: {error}); "
                "the stage longcontext_train makes it"
            ) from error


class Calibration(Context):
    """Reads through another context, and gathers from layer `first` on what bases are made of.

    Only sums and products of rows are kept, in float64: any amount of text will do.

    Args:
        inner: what is read through.
        first: lowest layer that is to have bases.
        layers: of the decoder.
    """

    def __init__(self, inner: Context, first: int, layers: int) -> None:
        self.inner, self.first, self.count = inner, first, 0
        self._sums: list[Any] = [[0.0, 0.0] for _ in range(layers - first)]
        self._products: list[Any] = [[0.0, 0.0] for _ in range(layers - first)]

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        if layer >= self.first:
            self.take(layer, keys, values)
        return self.inner.read(layer, queries, keys, values)

    def take(self, layer: int, keys: Float[Tensor, "B G T D"], values: Float[Tensor, "B G T D"]) -> None:
        """Gather the keys and values of a layer from `first` on, wherever they were read."""
        for side, part in enumerate((keys, values)):
            rows = part.transpose(1, 2).flatten(2).flatten(0, 1).double()
            self._sums[layer - self.first][side] += rows.sum(dim=0)
            self._products[layer - self.first][side] += rows.T @ rows
        if layer == self.first:
            self.count += keys.shape[0] * keys.shape[2]

    def resume(self, inner: Context) -> None:
        """Read the next texts through `inner`."""
        self.inner = inner

    def held(self) -> Held:
        """See `Context.held`."""
        return self.inner.held()

    def bases(self) -> Bases:
        """Return the bases of all that was read."""
        keys, values = (
            _basis(
                torch.stack([pair[side] for pair in self._sums]),
                torch.stack([pair[side] for pair in self._products]),
                self.count,
            )
            for side in (0, 1)
        )
        return Bases(self.first, keys, values)


def _basis(sums: Float[Tensor, "layers E"], products: Float[Tensor, "layers E E"], count: int) -> Basis:
    centre = sums / count
    squared, directions = torch.linalg.eigh(products - count * centre[:, :, None] * centre[:, None])
    spectrum = squared.clamp(min=0).sqrt()
    return Basis(*(part.float().cpu() for part in (centre, directions.flip(-1), spectrum.flip(-1))))


@torch.no_grad()
def calibrate(runner: Runner, batches: Iterable[TokenIds], make: Any, first: int) -> Bases:
    """Return bases from the keys and values of layers `first` and above over batches of texts.

    Args:
        runner: of the decoder.
        batches: token ids on its device.
        make: returns a fresh context to read a batch through, `FullKV` for texts within the decoder's window.
        first: ℓ_r.
    """
    calibration = Calibration(make(), first, runner.layers)
    for ids in batches:
        calibration.resume(make())
        for start in range(0, ids.shape[1], runner.chunk):
            runner.step(ids[:, start : start + runner.chunk], calibration, logits=0)
    return calibration.bases()
