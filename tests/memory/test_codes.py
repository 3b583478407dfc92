import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import codes as module
from pipeline.memory.codes import Codes
from pipeline.memory.coding import CodesWriter, rotation
from pipeline.memory.flat import Flat, FlatWriter


def coded(folder: Path, vectors: np.ndarray, turned: bool = False, kept: bool = False) -> Codes:
    size = vectors.shape[1]
    with FlatWriter(folder, "codes") as files:
        centre = vectors.mean(axis=0) if len(vectors) else np.zeros(size)
        writer = CodesWriter(files, "codes", centre, rotation(size, 0) if turned else None, kept)
        for part in np.array_split(vectors, 3):
            writer.append(part)
    return Codes.open(Flat.open(folder, "codes"), "codes")


def crowd(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around a common mean."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, size)) + 2 * random.standard_normal(size)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 200),
    size=st.sampled_from([5, 64, 100, 500]),
    n=st.integers(1, 30),
    block=st.sampled_from([1, 7, 1000]),
    sample=st.sampled_from([(32, 1 << 10), (3, 5), (1, 1)]),
    threads=st.integers(1, 3),
    turned=st.booleans(),
    twins=st.booleans(),
)
def test_the_scan_finds_the_codes_that_differ_least(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    size: int,
    n: int,
    block: int,
    sample: tuple[int, int],
    threads: int,
    turned: bool,
    twins: bool,
) -> None:
    """However badly a sample of the codes tells how many differ how much, and with many that are alike."""
    vectors = crowd(count, size)
    if twins:
        vectors[: count // 2] = vectors[:1]
    query = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    codes = coded(tmp_path_factory.mktemp("codes"), vectors, turned)
    turn = rotation(size, 0) if turned else np.eye(size, dtype=np.float32)
    moved = (vectors - vectors.mean(axis=0).astype(np.float32) if count else vectors) @ turn.T
    differs = ((moved > 0) != (turn @ query > 0)).sum(axis=1)
    right = np.argsort(differs, kind="stable")[:n]
    with pytest.MonkeyPatch.context() as patch, module.ThreadPoolExecutor(threads) as pool:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "SAMPLE", sample[0])
        patch.setattr(module, "STRETCH", sample[1])
        assert codes.nearest(query, n, pool).tolist() == right.tolist()
        assert codes.nearest(query, n).tolist() == right.tolist()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 300), n=st.integers(1, 30), share=st.floats(0, 1), threads=st.integers(1, 3))
def test_first_bits_choose_which_codes_are_compared_in_full(
    tmp_path_factory: pytest.TempPathFactory, count: int, n: int, share: float, threads: int
) -> None:
    vectors = crowd(count, 200)
    query = np.random.default_rng(1).standard_normal(200).astype(np.float32)
    codes = coded(tmp_path_factory.mktemp("codes"), vectors)
    apart = (vectors - vectors.mean(axis=0) > 0) != (query > 0)
    chosen = np.sort(
        np.argsort(apart[:, :192].sum(axis=1), kind="stable")[: max(n, math.ceil(share * count))]
    )
    right = chosen[np.argsort(apart[chosen].sum(axis=1), kind="stable")[:n]]
    with module.ThreadPoolExecutor(threads) as pool:
        assert codes.nearest(query, n, pool, share).tolist() == right.tolist()


@pytest.mark.parametrize("turned", [False, True])
def test_with_vectors_and_all_rows_to_choose_from_it_is_exact(tmp_path: Path, turned: bool) -> None:
    vectors = crowd(500, 96)
    codes = coded(tmp_path, vectors, turned, kept=True)
    queries = torch.randn(4, 96, generator=torch.manual_seed(0))
    products, rows = codes.search(queries, 7, rescored=500)
    right = (queries @ torch.from_numpy(vectors).half().float().T).topk(7)
    torch.testing.assert_close(products, right.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(rows, right.indices)


def test_estimates_are_right_on_average(tmp_path: Path) -> None:
    vectors = crowd(4000, 384)
    codes = coded(tmp_path, vectors, turned=True)
    query = np.random.default_rng(1).standard_normal(384).astype(np.float32)
    error = codes.products(query, np.arange(4000)) - vectors @ query
    spread = (vectors @ query).std()
    assert abs(error.mean()) < 0.05 * spread
    assert error.std() < spread
    assert np.corrcoef(codes.products(query, np.arange(4000)), vectors @ query)[0, 1] > 0.7


def test_a_vector_finds_itself_first(tmp_path: Path) -> None:
    vectors = crowd(3000, 384)
    codes = coded(tmp_path, vectors)
    asked = torch.from_numpy(vectors[::300])
    _, rows = codes.search(asked * 30, 1)
    assert rows[:, 0].tolist() == list(range(0, 3000, 300))


def test_only_what_is_kept_is_found(tmp_path: Path) -> None:
    codes = coded(tmp_path, crowd(300, 64), kept=True)
    queries = torch.randn(2, 64, generator=torch.manual_seed(0))
    products, rows = codes.search(queries, 4, keep=lambda rows: rows % 100 == 0)
    assert [sorted(row) for row in rows.tolist()] == [[-1, 0, 100, 200]] * 2
    assert (products[:, -1] == -torch.inf).all()
    assert (products[:, :3].diff(dim=1) <= 0).all()


def test_a_code_takes_one_bit_a_dimension_and_two_bytes(tmp_path: Path) -> None:
    coded(tmp_path, crowd(1000, 384))
    files = [*tmp_path.glob("codes.word*"), tmp_path / "codes.factors.bin"]
    assert sum(file.stat().st_size for file in files) == 50 * 1000


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows_give_what_there_is(tmp_path: Path, count: int) -> None:
    products, rows = coded(tmp_path, crowd(count, 64)).search(torch.ones(2, 64), 5)
    assert rows.shape == products.shape == (2, count)
    assert (rows == 0).all()
