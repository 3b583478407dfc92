"""A base that is searched on a device, which is a processor here, answers as one that isn't copied."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.benchmarks.made_up import MadeUp
from pipeline.memory import arrangement, on_device
from pipeline.memory.build import build
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.numbering import Numbering
from pipeline.memory.on_device import OnDevice
from pipeline.memory.standing import OnDisk
from pipeline.memory.store import KnowledgeMemory
from tests.memory.killed import SETTINGS, Drawn, carry_out
from tests.memory.small import ask
from tests.tiny import memory_settings

GRAPH = MadeUp(8000, 400, 300, 0.8, 0)


@pytest.fixture
def folder(tmp_path: Path, texts: TextEncoder) -> Path:
    """Return a base with more relations than fit into eight bits."""
    names = GRAPH.names("Q", GRAPH.entities), GRAPH.names("P", GRAPH.relations)
    build(tmp_path / "base", *names, GRAPH.blocks(), more=GRAPH.vectors(texts.dimension))
    return tmp_path / "base"


def queries(texts: TextEncoder, count: int) -> Query:
    random = torch.manual_seed(0)
    return Query(*(torch.randn(count, texts.dimension, generator=random) * 5 for _ in range(2)))


def test_facts_and_scores_are_the_same(
    folder: Path, texts: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a change, after one, and when settings change, for which nothing is copied anew."""
    settings = memory_settings(backend="codes", entities=20, N=50, rescored=400)
    plain = KnowledgeMemory.open(folder, settings, texts)
    monkeypatch.setattr(arrangement, "OnDisk", OnDevice)
    monkeypatch.setattr(OnDevice, "at_once", 3)
    held = KnowledgeMemory.open(folder, settings, texts)
    query, copies = queries(texts, 7), on_device._copies
    for change in ("none", "some gone", "settings"):
        if change == "some gone":
            gone = [plain.fact(row).key for row in plain.search(query).facts[:, :5].unique().tolist()]
            for memory in (plain, held):
                memory.delete(gone)
        if change == "settings":
            before = dict(next(iter(copies.values())))
            with held.arrangement.using(settings, None):
                assert torch.equal(held.search(query).facts, plain.search(query).facts)
            assert dict(next(iter(copies.values()))) == before
        right, found = plain.search(query), held.search(query)
        assert torch.equal(found.facts, right.facts), change
        torch.testing.assert_close(found.scores, right.scores)
        assert torch.equal(found.relation, right.relation)
    assert len(right.facts.unique()) > 50


def test_copies_go_with_their_base(folder: Path, texts: TextEncoder) -> None:
    settings = memory_settings(backend="codes", entities=20)
    base = KnowledgeMemory.open(folder, settings, texts).arrangement.base
    assert base is not None
    numbering = Numbering(len(base))
    standing = OnDevice(base, None, settings, torch.device("cpu"), numbering)  # type: ignore[arg-type]
    products, heads = standing.nearest(queries(texts, 2).key, 20)
    standing.found(heads, products, torch.zeros(2, 300), 1.0, 5, np.empty(0, np.int64))
    assert len(on_device._copies[base]) == 2
    count = len(on_device._copies)
    del standing, base
    assert len(on_device._copies) == count - 1


def test_facts_keep_their_ids_after_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows of the base are ids no longer, with changes before, between and after."""
    found = []
    for kind in (OnDisk, OnDevice):
        monkeypatch.setattr(arrangement, "OnDisk", kind)
        with DurableMemory.begun(tmp_path / kind.__name__, SETTINGS, Drawn()) as memory:
            for number in range(30):
                carry_out(memory, number)
                if number in (9, 19):
                    memory.merge()
            assert not memory.arrangement._facts.numbering.plain
            found.append(memory.search(ask(Drawn(), 5), 40))
    plain, copied = found
    assert (plain.facts >= 0).sum() > 20
    assert torch.equal(copied.facts, plain.facts)
    torch.testing.assert_close(copied.scores, plain.scores)
