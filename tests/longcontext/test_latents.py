import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.longcontext.latents import Latents
from pipeline.longcontext.lowrank import Bases, Basis
from pipeline.longcontext.quantised import packed, unpacked, width

LAYERS, GROUPS, SIZE, BLOCK = 3, 2, 6, 4
E = GROUPS * SIZE


def basis(seed: int) -> Basis:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(LAYERS, E, E, generator=generator)).Q
    return Basis(torch.randn(LAYERS, E, generator=generator), directions, torch.ones(LAYERS, E))


BASES = Bases(0, basis(1), basis(2))


def states(seed: int, tokens: int = 3 * BLOCK) -> Tensor:
    return 3 * torch.randn(LAYERS, 2, GROUPS, tokens, SIZE, generator=torch.Generator().manual_seed(seed))


def there_and_back(latents: Latents, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    rows = latents.encode(keys, values)
    assert rows.shape[:4] == (3, 2, LAYERS, BLOCK)
    assert rows.is_contiguous()
    return latents.decode(rows.transpose(0, 1), keys.dtype)


@pytest.mark.parametrize(("rank", "atol"), [(0, 0.0), (E, 1e-5)])
def test_full_rank_gives_back_what_it_was_given(rank: int, atol: float) -> None:
    latents = Latents(BASES, rank, rank, "float32", BLOCK, GROUPS, SIZE, "cpu")
    for got, right in zip(there_and_back(latents, states(3), states(4)), (states(3), states(4)), strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=atol)


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
@pytest.mark.parametrize(("rank_keys", "rank_values"), [(5, 3), (0, 4), (4, 0)])
def test_a_rank_projects_on_its_directions(rank_keys: int, rank_values: int, precision: str) -> None:
    latents = Latents(BASES, rank_keys, rank_values, precision, BLOCK, GROUPS, SIZE, "cpu")
    got = there_and_back(latents, states(3), states(4))
    sides = zip(
        got, (states(3), states(4)), (BASES.keys, BASES.values), (rank_keys, rank_values), strict=True
    )
    for found, given_, side, rank in sides:
        rows = given_.transpose(2, 3).flatten(3)
        cut = side.directions[:, None, :, :rank]
        centred = rows - side.centre[:, None, None]
        right = side.centre[:, None, None] + centred @ cut @ cut.transpose(-1, -2) if rank else rows
        right = right.unflatten(3, (GROUPS, SIZE)).transpose(2, 3)
        atol = {"float32": 1e-5, "int8": 0.3, "int4": 5.0}[precision]
        torch.testing.assert_close(found, right, rtol=0, atol=atol)


@pytest.mark.parametrize("rank", [0, E])
@pytest.mark.parametrize(("precision", "most"), [("int8", 127), ("int4", 7)])
def test_few_bits_are_wrong_by_half_a_step_of_each_number_at_most(
    rank: int, precision: str, most: int
) -> None:
    latents = Latents(BASES, rank, rank, precision, BLOCK, GROUPS, SIZE, "cpu")
    got = there_and_back(latents, states(3), states(4))
    for found, right, side in zip(got, (states(3), states(4)), (BASES.keys, BASES.values), strict=True):
        rows = right.transpose(2, 3).flatten(3)
        kept = rows - side.centre[:, None, None] if rank else rows
        longest = torch.linalg.vector_norm(kept, dim=-1)  # no number of a turned row exceeds its length
        wrong = torch.linalg.vector_norm((found - right).transpose(2, 3).flatten(3), dim=-1)
        assert (wrong <= longest / most / 2 * E**0.5 * 1.001).all()
        assert wrong.min() > 0


def test_a_row_takes_as_many_bytes_as_its_ranks_and_two_scales() -> None:
    assert (
        Latents(BASES, 5, 3, "int8", BLOCK, GROUPS, SIZE, "cpu").encode(states(3), states(4)).shape[-1]
        == 5 + 2 + 3 + 2
    )
    four = Latents(BASES, 5, 4, "int4", BLOCK, GROUPS, SIZE, "cpu").encode(states(3), states(4))
    assert four.shape[-1] == 3 + 2 + 2 + 2
    halves = Latents(BASES, 5, 0, "float16", BLOCK, GROUPS, SIZE, "cpu").encode(states(3), states(4))
    assert (halves.shape[-1], halves.element_size()) == (5 + E, 2)


@pytest.mark.parametrize(
    ("bases", "rank", "text"), [(None, 4, "a rank of 4 with no basis"), (BASES, 13, "a basis of 12 numbers")]
)
def test_a_rank_that_the_basis_lacks_is_refused(bases: Bases | None, rank: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Latents(bases, rank, 0, "int8", BLOCK, GROUPS, SIZE, "cpu")


@given(
    numbers=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), bits=st.sampled_from([4, 8])
)
def test_packed_numbers_are_wrong_by_half_a_scale_at_most(numbers: list[float], bits: int) -> None:
    rows = torch.tensor([numbers, [0.0] * len(numbers)])
    codes = packed(rows, bits)
    assert codes.shape == (2, width(len(numbers), bits))
    scale = codes[:, -2:].contiguous().view(torch.float16).float()
    again = unpacked(codes, len(numbers), bits)
    assert again.shape == rows.shape
    assert ((again - rows).abs() <= scale / 2 + 1e-6 * rows.abs()).all()
    assert scale[0, 0] <= rows[0].abs().max() / (2 ** (bits - 1) - 1) * 1.001 + 7e-5
    assert not again[1].any()
