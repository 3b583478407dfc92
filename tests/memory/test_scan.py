"""The scan over codes where tensors are: every way through them finds the same ones."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import coding, scan
from pipeline.memory.scan import Table
from tests.memory.test_codes import crowd

GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None, reason="Triton's kernels need a GPU"
)


def table(vectors: np.ndarray, device: str = "cpu") -> Table:
    given = torch.from_numpy(vectors).to(device)
    return scan.coded(given, given.mean(dim=0) if len(given) else torch.zeros(given.shape[1]))


def queries(count: int, size: int, device: str = "cpu") -> torch.Tensor:
    return torch.randn(count, size, generator=torch.manual_seed(1)).to(device)


def in_order(held: Table, asked: scan.Asked, n: int) -> list[list[int]]:
    """The rows of the largest estimates, then by row, by a plain sort."""
    found = scan.estimates(held, asked)
    return found.sort(dim=1, descending=True, stable=True).indices[:, :n].tolist()


@pytest.mark.parametrize("size", [5, 64, 100, 384])
def test_codes_are_those_of_the_processor(size: int) -> None:
    vectors = crowd(300, size)
    vectors[7] = vectors.mean(axis=0)
    centre = torch.from_numpy(vectors).mean(dim=0)
    words, factors = coding.coded(vectors, centre.numpy())
    held = scan.coded(torch.from_numpy(vectors), centre)
    assert np.array_equal(held.words.numpy().view(np.uint64), words.T)
    np.testing.assert_allclose(held.factors.numpy(), factors, rtol=2e-3)


def test_an_estimate_is_the_product_of_whole_numbers_and_signs() -> None:
    vectors, asked = crowd(200, 100), scan.rounded(queries(4, 100), 2)
    held = table(vectors)
    signs = np.where(vectors > vectors.mean(axis=0, dtype=np.float32), 1, -1)
    numbers = asked.numbers[:, :100].numpy().astype(np.int64)
    assert abs(numbers).max(axis=1).tolist() == [scan.MOST] * 4
    right = torch.from_numpy((numbers @ signs.T).astype(np.float32)) * held.factors.float()
    assert torch.equal(scan.estimates(held, asked), right)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    size=st.sampled_from([5, 64, 100]),
    n=st.integers(1, 20),
    tile=st.sampled_from([1, 4, 128]),
    tiles=st.integers(1, 5),
    twins=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_largest_estimates_are_found(
    count: int, size: int, n: int, tile: int, tiles: int, twins: float
) -> None:
    """However many lie in one tile, and of twins the first ones; of a question alone as among others."""
    vectors = crowd(count, size)
    vectors[: int(twins * count)] = vectors[:1]
    held, asked, n = table(vectors), scan.rounded(queries(3, size), -(-size // 64)), min(n, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "TILE", tile)
        patch.setattr(scan, "BLOCK", tile * tiles)
        assert scan.largest(held, asked, n).tolist() == in_order(held, asked, n)
        alone = [
            scan.largest(held, scan.rounded(query[None], -(-size // 64)), n) for query in queries(3, size)
        ]
        assert torch.cat(alone).tolist() == in_order(held, asked, n)


@GPU
@pytest.mark.parametrize(("count", "size"), [(1, 384), (20, 384), (100, 384), (300, 384), (5, 64), (5, 130)])
def test_kernels_find_what_is_found_without_them(count: int, size: int) -> None:
    from pipeline.memory.kernels import Kernels

    vectors = crowd(200_037, size)
    vectors[1000:1200] = vectors[1000]
    held, asked = table(vectors, "cuda"), scan.rounded(queries(count, size, "cuda"), -(-size // 64))
    kernels, plain = Kernels(), scan.Plain()
    assert torch.equal(kernels.peaks(held, asked), plain.peaks(held, asked))
    tiles = torch.arange(1500, 1563, 7, device="cuda").expand(count, -1)
    assert torch.equal(kernels.within(held, asked, tiles), plain.within(held, asked, tiles))
    assert scan.largest(held, asked, 30).tolist() == in_order(held, asked, 30)


def test_on_a_processor_no_kernel_is_asked_for() -> None:
    assert isinstance(scan.fastest(torch.device("cpu")), scan.Plain)
