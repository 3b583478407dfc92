"""The scan over codes where tensors are: every way through them finds the same ones."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import coding, scan
from pipeline.memory.scan import Above, Passed, Table
from tests.memory.test_codes import crowd

GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None, reason="Triton's kernels need a GPU"
)


def table(vectors: np.ndarray, device: str = "cpu") -> Table:
    given = torch.from_numpy(vectors).to(device)
    return scan.coded(given, given.mean(dim=0) if len(given) else torch.zeros(given.shape[1]))


def queries(count: int, size: int, device: str = "cpu") -> torch.Tensor:
    return torch.randn(count, size, generator=torch.manual_seed(1)).to(device)


def keys(passed: Passed) -> list[list[int]]:
    return [sorted(row) for row in scan._keys(passed.values, passed.rows).tolist()]


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
    block=st.sampled_from([1, 7, 1000]),
    sample=st.sampled_from([(128, 1 << 10), (5, 7), (16, 1)]),
    room=st.sampled_from([1, 3, 1 << 13]),
    twins=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_largest_estimates_are_found(
    count: int, size: int, n: int, block: int, sample: tuple[int, int], room: int, twins: float
) -> None:
    """However badly a sample tells the bound, with too little room for what lies above it, and with twins."""
    vectors = crowd(count, size)
    vectors[: int(twins * count)] = vectors[:1]
    held, asked, n = table(vectors), scan.rounded(queries(3, size), -(-size // 64)), min(n, count)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", block), ("SAMPLE", sample[0]), ("STRETCH", sample[1]), ("ROOM", room)):
            patch.setattr(scan, name, value)
        assert scan.largest(held, asked, n).tolist() == in_order(held, asked, n)
        alone = [
            scan.largest(held, scan.rounded(query[None], -(-size // 64)), n) for query in queries(3, size)
        ]
        assert torch.cat(alone).tolist() == in_order(held, asked, n)


@pytest.mark.parametrize("kind", ["none", "too few", "too many"])
def test_a_bound_that_is_wrong_is_mended(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every query gets its rows although the first scan leaves some of them with too few or too many."""
    held, asked = table(crowd(4000, 64)), scan.rounded(queries(6, 64), 1)
    monkeypatch.setattr(scan, "SAMPLE", 16)
    monkeypatch.setattr(scan, "STRETCH", 32)
    monkeypatch.setattr(scan, "ROOM", 400)
    bounds: list[torch.Tensor] = []

    def misled(held: Table, asked: scan.Asked, given: torch.Tensor, room: int) -> Passed:
        wrong = {"none": given, "too few": torch.full_like(given, 1e9), "too many": given - 1e9}[kind]
        bounds.append(given)
        odd = torch.arange(len(given)) % 2 == 1
        return scan.above(held, asked, torch.where(odd, wrong, given) if len(bounds) == 1 else given, room)

    assert scan.largest(held, asked, 5, None, misled).tolist() == in_order(held, asked, 5)
    assert [len(given) for given in bounds] == ([6] if kind == "none" else [6, 3])


@GPU
@pytest.mark.parametrize("count", [1, 3, 5, 20, 50, 100, 300])
def test_kernels_find_what_is_found_without_them(count: int) -> None:
    from pipeline.memory import kernels

    vectors = crowd(200_037, 384)
    vectors[1000:1200] = vectors[1000]
    held, asked = table(vectors, "cuda"), scan.rounded(queries(count, 384, "cuda"), 6)
    bounds = scan.estimates(held, asked).topk(40, dim=1).values[:, -1]
    plain = scan.above(held, asked, bounds, 512)
    ways: list[Above] = [kernels.multiplied, kernels.above]
    for way in ways:
        found = way(held, asked, bounds, 512)
        assert torch.equal(found.counts, plain.counts)
        assert keys(found) == keys(plain)
        assert scan.largest(held, asked, 30, None, way).tolist() == in_order(held, asked, 30)


def test_on_a_processor_no_kernel_is_asked_for() -> None:
    fastest: Callable[[torch.device], Above] = scan.fastest
    assert fastest(torch.device("cpu")) is scan.above
