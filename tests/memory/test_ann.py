import sys

import pytest
import torch
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.memory.ann import Exact, searcher
from pipeline.memory.settings import Memory
from tests.tiny import memory_settings

GENERATOR = torch.Generator().manual_seed(0)
VECTORS = F.normalize(torch.randn(2000, 32, generator=GENERATOR), dim=-1)
QUERIES = F.normalize(VECTORS[:100] + 0.1 * torch.randn(100, 32, generator=GENERATOR), dim=-1)


LEAST = {"exact": 1.0, "codes": 0.9, "int8": 0.9, "hikvp": 0.8, "hnsw": 0.9, "ivf": 0.8, "ivfpq": 0.8}
"""Share of what a scan finds that each backend must find."""


def settings(backend: str, **changes: int) -> Memory:
    sizes = {"links": 32, "lists": 16, "probes": 8, "roots": 10, "inner": 50, "rescored": 40}
    return memory_settings(backend=backend, **sizes | changes)


@pytest.mark.parametrize(("backend", "least"), LEAST.items())
def test_a_backend_finds_what_a_scan_finds(backend: str, least: float) -> None:
    scores, rows = searcher(VECTORS, settings(backend)).search(QUERIES, 10)
    right = (QUERIES @ VECTORS.T).topk(10)
    assert scores.shape == rows.shape == (100, 10)
    assert scores.dtype == torch.float32
    assert rows.dtype == torch.int64
    found = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), right.indices.tolist(), strict=True)]
    assert sum(found) / 1000 >= least
    assert (scores.diff(dim=1) <= 1e-6).all()
    close = 1e-2 if backend == "int8" else 1e-5
    torch.testing.assert_close(scores, (QUERIES @ VECTORS.T).gather(1, rows), atol=close, rtol=close)


@pytest.mark.parametrize("backend", list(LEAST))
def test_n_is_cut_to_the_number_of_vectors(backend: str) -> None:
    scores, rows = searcher(VECTORS[:7], settings(backend, lists=100)).search(QUERIES[:3], 50)
    assert sorted(rows[0].tolist()) == list(range(7))
    assert scores.isfinite().all()


def test_rows_that_an_inverted_file_does_not_reach_score_minus_infinity() -> None:
    found = searcher(VECTORS[:390], settings("ivf", lists=10, probes=1))
    scores, rows = found.search(QUERIES, 390)
    unfound = scores == -torch.inf
    assert unfound.any()
    assert (rows[unfound] == 0).all()
    assert ((rows >= 0) & (rows < 390)).all()


@pytest.mark.parametrize("backend", ["hnsw", "ivf", "ivfpq"])
def test_more_probes_find_more(backend: str) -> None:
    right = (QUERIES @ VECTORS.T).topk(10).indices.tolist()
    shares = []
    for probes in (1, 64):
        given = settings(backend, probes=probes, links=2, rescored=200)
        _, rows = searcher(VECTORS, given).search(QUERIES, 10)
        shares.append(sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), right, strict=True)))
    assert shares[0] < shares[1]


def test_queries_with_gradients_are_searched() -> None:
    asked = QUERIES[:2].clone().requires_grad_()
    scores, _ = searcher(VECTORS, settings("hnsw")).search(asked, 3)
    assert not scores.requires_grad


@pytest.mark.parametrize("backend", list(LEAST))
def test_nothing_is_found_among_no_vectors(backend: str) -> None:
    found = searcher(VECTORS[:0], settings(backend))
    assert isinstance(found, Exact)
    scores, rows = found.search(QUERIES[:2], 5)
    assert scores.shape == rows.shape == (2, 0)


@pytest.mark.parametrize("backend", ["hnsw", "ivf"])
def test_without_faiss_the_remedy_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        UserError, match=rf"memory\.backend is '{backend}', which needs faiss: pip install .*exact"
    ):
        searcher(VECTORS, settings(backend))
    assert isinstance(searcher(VECTORS, settings("exact")), Exact)
