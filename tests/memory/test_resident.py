"""Codes on a device, which is a processor here: what they find, and what stays in main memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.benchmarks.processes import mapped
from pipeline.memory import resident, scan
from pipeline.memory.resident import ResidentCodes
from tests.memory.test_codes import coded, crowd

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "TILE", 8)
    monkeypatch.setattr(scan, "BLOCK", 512)
    monkeypatch.setattr(resident, "COPIED", 1000)


@pytest.mark.parametrize("turned", [False, True])
def test_all_codes_are_compared_by_their_estimate(tmp_path: Path, turned: bool) -> None:
    codes = coded(tmp_path, crowd(3000, 100), turned)
    queries = torch.randn(5, 100, generator=torch.manual_seed(0)) * 9
    held = ResidentCodes(codes, CPU)
    products, rows = held.search(queries, 20)
    every = np.stack([codes.products(query.numpy(), np.arange(3000)) for query in queries])
    right = np.argsort(-every, axis=1, kind="stable")[:, :20]
    assert (rows.numpy() == right).mean() > 0.98, "but for estimates that differ in their last digits"
    torch.testing.assert_close(products, torch.from_numpy(np.take_along_axis(every, right, 1)))
    for place in range(5):
        alone = held.search(queries[place : place + 1], 20)
        assert torch.equal(alone[0][0], products[place])
        assert torch.equal(alone[1][0], rows[place])


def test_with_vectors_and_all_rows_to_choose_from_it_is_exact(tmp_path: Path) -> None:
    vectors = crowd(500, 96)
    held = ResidentCodes(coded(tmp_path, vectors, kept=True), CPU)
    queries = torch.randn(4, 96, generator=torch.manual_seed(0))
    products, rows = held.search(queries, 7, rescored=500)
    right = (queries @ torch.from_numpy(vectors).half().float().T).topk(7)
    torch.testing.assert_close(products, right.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(rows, right.indices)


def test_only_what_is_kept_is_found(tmp_path: Path) -> None:
    held = ResidentCodes(coded(tmp_path, crowd(2000, 64)), CPU)
    queries = torch.randn(3, 64, generator=torch.manual_seed(0))
    every = held.search(queries, 2000)[1]
    few = torch.arange(0, 2000, 97)
    products, rows = held.search(queries, 30, lambda rows: torch.isin(rows, few))
    assert rows[:, len(few) :].tolist() == [[-1] * (30 - len(few))] * 3
    assert (products[:, len(few) :] == -torch.inf).all()
    for found, order in zip(rows[:, : len(few)].tolist(), every.tolist(), strict=True):
        assert found == [row for row in order if row in few]


def test_twins_come_by_row(tmp_path: Path) -> None:
    vectors = crowd(1500, 64)
    vectors[100:1400:7] = vectors[100]
    held = ResidentCodes(coded(tmp_path, vectors), CPU)
    _, rows = held.search(torch.from_numpy(vectors[100:101]) * 9, 60)
    assert rows[0].tolist() == list(range(100, 1400, 7))[:60]


def test_what_was_read_of_the_files_is_resident_no_longer(tmp_path: Path) -> None:
    codes = coded(tmp_path, crowd(40_000, 384))
    held = ResidentCodes(codes, CPU)
    assert mapped(tmp_path) < 0.1 < 40_000 * 50 / 2**20
    assert np.array_equal(held.table.words.numpy().view(np.uint64), np.stack(codes.part(slice(None)).words))


def test_none_are_found_among_none(tmp_path: Path) -> None:
    held = ResidentCodes(coded(tmp_path, crowd(0, 64)), CPU)
    products, rows = held.search(torch.randn(2, 64), 5)
    assert products.shape == rows.shape == (2, 0)
