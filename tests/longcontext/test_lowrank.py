from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.longcontext.context import FullKV
from pipeline.longcontext.lowrank import Bases, Calibration, calibrate
from pipeline.longcontext.running import Runner
from tests.tiny import tiny_decoder

LAYERS, GROUPS, SIZE = 3, 2, 6
FIRST = 1


def chunks(seed: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Keys and values of some chunks, layer by layer, far from centred and of uneven spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.1, 3, SIZE)
    return [
        [
            tuple(5 + spread * torch.randn(2, GROUPS, width, SIZE, generator=generator) for _ in range(2))
            for _ in range(LAYERS)
        ]
        for width in (7, 20, 3)
    ]  # type: ignore[misc]


def gathered(parts: list[list[tuple[Tensor, Tensor]]]) -> Bases:
    calibration = Calibration(FullKV(LAYERS), FIRST, LAYERS)
    for chunk in parts:
        for layer, (keys, values) in enumerate(chunk):
            calibration.read(layer, keys, keys, values)
    return calibration.bases()


def rows(parts: list[list[tuple[Tensor, Tensor]]], layer: int, side: int) -> Tensor:
    return torch.cat([chunk[layer][side].transpose(1, 2).flatten(2).flatten(0, 1) for chunk in parts])


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rank", [1, 4, 11, 12])
def test_what_a_rank_loses_of_the_calibration_rows_is_the_discarded_singular_values(
    side: int, rank: int
) -> None:
    parts = chunks(0)
    bases = gathered(parts)
    basis = (bases.keys, bases.values)[side]
    for layer in (1, 2):
        matrix = rows(parts, layer, side)
        singular = torch.linalg.svdvals(matrix - matrix.mean(dim=0))
        torch.testing.assert_close(basis.spectrum[layer - 1], singular, rtol=1e-4, atol=1e-4)
        right = singular[rank:].square().sum().sqrt()
        torch.testing.assert_close(basis.bound(rank)[layer - 1], right, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(basis.error(layer - 1, matrix, rank), right, rtol=1e-3, atol=1e-3)
        share = right.square() / singular.square().sum()
        torch.testing.assert_close(basis.lost(rank)[layer - 1], share, rtol=1e-3, atol=1e-5)


def test_no_other_subspace_of_the_rank_loses_less() -> None:
    parts = chunks(0)
    basis = gathered(parts).keys
    matrix = rows(parts, FIRST, 0)
    centred = matrix - matrix.mean(dim=0)
    generator = torch.Generator().manual_seed(9)
    for _ in range(20):
        nudged = basis.directions[0, :, :4] + 0.1 * torch.randn(12, 4, generator=generator)
        other = torch.linalg.qr(nudged).Q
        assert torch.linalg.matrix_norm(centred - centred @ other @ other.T) > basis.bound(4)[0]


def test_directions_are_orthonormal_even_where_rows_span_less() -> None:
    parts = chunks(0)
    for chunk in parts:
        for keys, values in chunk:
            keys[..., 0] = keys[..., 1]
            values[:] = 1
    bases = gathered(parts)
    for basis in (bases.keys, bases.values):
        gram = basis.directions.transpose(1, 2) @ basis.directions
        torch.testing.assert_close(gram, torch.eye(12).expand(2, 12, 12), rtol=0, atol=1e-5)
    assert bases.keys.spectrum[:, -1].max() < 1e-2 * bases.keys.spectrum[:, 0].min()


def test_bases_come_back_from_their_file(tmp_path: Path) -> None:
    bases = gathered(chunks(1))
    bases.save(tmp_path / "bases.safetensors")
    again = Bases.load(tmp_path / "bases.safetensors")
    assert again.first == FIRST
    for one, other in ((bases.keys, again.keys), (bases.values, again.values)):
        for part in ("centre", "directions", "spectrum"):
            assert getattr(one, part).equal(getattr(other, part)), part


@pytest.mark.parametrize("damage", ["missing", "text", "other"])
def test_a_file_without_bases_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "bases.safetensors"
    if damage == "text":
        file.write_text("no tensors")
    if damage == "other":
        from safetensors.torch import save_file

        save_file({"first": torch.tensor(1)}, file)
    with pytest.raises(UserError, match=r"bases\.safetensors: holds no bases"):
        Bases.load(file)


def test_bases_of_a_decoder_are_made_of_its_keys_and_values_before_rotation() -> None:
    lm: Any = tiny_decoder("llama", vocabulary=97).eval().requires_grad_(False)
    runner = Runner(lm, chunk=8)
    ids = torch.randint(97, (3, 2, 20), generator=torch.Generator().manual_seed(1))
    bases = calibrate(runner, ids, lambda: FullKV(runner.layers), first=2)

    taken: dict[str, list[Tensor]] = {"k_proj": [], "v_proj": []}
    for name, found in taken.items():
        part = getattr(lm.model.layers[3].self_attn, name)
        part.register_forward_hook(lambda module, inputs, output, found=found: found.append(output))
    for batch in ids:
        lm(batch)
    for basis, name in ((bases.keys, "k_proj"), (bases.values, "v_proj")):
        matrix = torch.cat(taken[name]).flatten(0, 1)
        torch.testing.assert_close(basis.centre[1], matrix.mean(dim=0), rtol=0, atol=1e-5)
        right = torch.linalg.svdvals(matrix - matrix.mean(dim=0))
        torch.testing.assert_close(basis.spectrum[1], right, rtol=1e-3, atol=1e-4)
