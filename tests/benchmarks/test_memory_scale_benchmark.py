"""The benchmark of large memories, on small ones: the made-up graph is as it claims, and figures are told."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.benchmarks.made_up import MadeUp
from pipeline.benchmarks.memory_scale import MemoryScale, exponents, measured, memory_scale
from pipeline.benchmarks.processes import mapped
from pipeline.benchmarks.scale_on_gpu import searched_on_gpu
from pipeline.benchmarks.scale_searches import Searches
from pipeline.config import UserError
from pipeline.memory.build import build
from pipeline.weights import Encoder
from tests.model.tiny_systems import CPU
from tests.tiny import memory_settings

MEMORY = memory_settings(entities=5, N=20)
NOWHERE = Encoder(name="none", source="none", sha256="", dtype="float32", max_tokens=32, batch_size=8)
"""Its weights are asked for by nothing."""


def settings(folder: Path, **changes: Any) -> MemoryScale:
    values: dict[str, Any] = {"facts": [3000], "facts_per_entity": 20, "relations": 40, "exponent": 0.8}
    values |= {"seed": 0, "questions": 3}
    values |= {
        "scans": 2,
        "dimensions": 64,
        "codes_share": 0.1,
        "batch_sizes": [2],
        "sorting_mib": 1,
        "workers": 1,
        "parts": ["build", "search"],
        "keep": False,
        "folder": folder,
    }
    return MemoryScale(**(values | changes))


def test_the_made_up_graph_has_the_size_and_the_skew_that_it_claims() -> None:
    graph = MadeUp(100_000, 5000, 300, 0.8, 0)
    facts = np.concatenate(list(graph.blocks()))
    assert facts.shape == (100_000, 3)
    assert np.array_equal(facts, np.concatenate(list(graph.blocks())))
    assert (facts != np.concatenate(list(MadeUp(100_000, 5000, 300, 0.8, 1).blocks()))).any()
    for column, size in zip(facts.T, (5000, 300, 5000), strict=True):
        assert 0 <= column.min() <= column.max() < size
    assert len(np.unique(facts[:, 0])) == 5000
    for column in (facts[:, 0], facts[:, 2]):
        degrees = sorted(Counter(column.tolist()).values(), reverse=True)
        assert degrees[0] > 100 * np.median(degrees)
        # Of Zipf's law: the first tenth of the ranks is drawn with the probability 0.1 ** (1 - 0.8).
        share = sum(degrees[:500]) / 100_000
        assert share == pytest.approx(0.1**0.2, abs=0.05)


def test_names_are_all_different_and_as_many_as_wanted() -> None:
    graph = MadeUp(10, 3, 2, 0.8, 0)
    [(keys, labels)] = graph.names("Q", 2000)
    assert len(set(keys)) == len(set(labels)) == 2000
    assert keys[-1] == "Q1999"


def test_what_is_measured_is_told_and_no_base_is_left(tmp_path: Path) -> None:
    section = settings(tmp_path / "scratch")
    memory_scale.run(MEMORY, NOWHERE, section, CPU, tmp_path)  # type: ignore[attr-defined]
    told = json.loads((tmp_path / "memory_scale.json").read_text())
    names = {"command", "commit", "versions", "machine", "seeds", "settings", "figures", "exponents"}
    assert names == told.keys()
    assert str(tmp_path) not in json.dumps(told)
    [figures] = told["figures"].values()
    build, search = figures["build"], figures["search"]
    assert build["facts"] + build["drawn twice"] == 3000
    assert build["entities"] == 150
    assert build["bytes"]["facts.tails.bin"] == 4 * build["facts"]
    assert build["bytes a fact"] == pytest.approx(sum(build["bytes"].values()) / build["facts"], abs=0.01)
    assert 5 < build["bytes a fact without names and codes"] < build["bytes a fact"]
    assert build["bytes of codes an entity"] == pytest.approx(64 / 8 + 2, abs=5)
    for name in (
        "uniform heads",
        "zipf heads",
        "heads by their codes",
        "queries",
        "queries by first bits, 2 at a time",
    ):
        assert 0 < search[name]["p50 ms"] <= search[name]["p99 ms"] <= search[name]["most ms"]
    resident = search["resident"]
    parts = resident["its own MiB"] + resident["of files MiB"]
    assert resident["resident MiB"] == pytest.approx(parts, rel=0.02)
    rest = resident["resident MiB"] - search["of the base MiB"]
    everything = sum(build["bytes"].values()) / 2**20
    assert search["if every page of them were touched MiB"] == pytest.approx(rest + everything, abs=0.2)
    assert 0 < search["of the base MiB"] < 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_building_and_searching_may_be_two_commands(tmp_path: Path) -> None:
    run = memory_scale.run  # type: ignore[attr-defined]
    section = settings(tmp_path / "scratch", facts=[1000, 3000], keep=True)
    with pytest.raises(UserError, match=r"memory_scale-1000\.json: not there; build this size first"):
        run(MEMORY, NOWHERE, replace(section, parts=["search"]), CPU, tmp_path)
    run(MEMORY, NOWHERE, replace(section, parts=["build"]), CPU, tmp_path)
    built = json.loads((tmp_path / "memory_scale.json").read_text())
    assert built["exponents"] == {}
    run(MEMORY, NOWHERE, replace(section, parts=["search"]), CPU, tmp_path)
    told = json.loads((tmp_path / "memory_scale.json").read_text())
    for facts, row in told["figures"].items():
        assert row["build"] == built["figures"][facts]["build"]
        assert row["search"]["queries"]["questions a second"] > 0
    assert told["exponents"].keys() >= {"queries", "queries, 2 at a time", "uniform heads"}
    assert (tmp_path / "scratch" / "memory_scale-3000").is_dir()


def test_the_base_is_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    graph = MadeUp(30_000, 1500, 300, 0.8, 0)
    for workers in (1, 3):
        names = graph.names("Q", graph.entities), graph.names("P", graph.relations)
        more = graph.vectors(64, workers)
        build(tmp_path / str(workers), *names, graph.blocks(workers), 1 << 16, None, more, workers)
    one, three = (sorted((tmp_path / str(workers)).iterdir()) for workers in (1, 3))
    assert [file.name for file in one] == [file.name for file in three]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in three]


def test_exponents_tell_how_milliseconds_grow() -> None:
    figures = {
        str(facts): {
            "build": {"facts": facts},
            "search": {"open ms": 3, "as facts": {"p50 ms": facts / 7}, "not at all": {"p50 ms": 2.0}},
        }
        for facts in (1000, 10_000, 100_000)
    }
    assert exponents(figures) == {"as facts": 1.0, "not at all": 0.0}
    assert exponents({"1000": figures["1000"]}) == {}


def test_a_gpu_is_told_what_it_takes(tmp_path: Path) -> None:
    """On a processor, where its parts run too."""
    graph = MadeUp(3000, 150, 40, 0.8, 0)
    build(
        tmp_path / "base", graph.names("Q", 150), graph.names("P", 40), graph.blocks(), more=graph.vectors(64)
    )
    asked = Searches(
        graph=graph,
        folder=tmp_path / "base",
        memory=replace(MEMORY, backend="codes"),
        encoder=NOWHERE,
        questions=3,
        scans=2,
        dimensions=64,
        codes_share=0.1,
        batch_sizes=[2],
        seed=0,
    )
    told = searched_on_gpu(asked, torch.device("cpu"))
    for name in ("queries", "queries, 2 at a time", "heads by their codes, 2 at a time", "zipf heads"):
        assert 0 < told[name]["p50 ms"] <= told[name]["p99 ms"]
    assert told["taken in all MiB"] == pytest.approx(told["resident"]["resident MiB"], abs=0.2)
    assert told["reserved on the GPU MiB"] == 0
    assert told["finds what is found without kernels"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(tmp_path: Path) -> None:
    facts = shutil.disk_usage(tmp_path).total
    with pytest.raises(
        UserError, match=r"GB are free, but a base of \d+ facts needs about .* memory_scale\.folder"
    ):
        measured(settings(tmp_path), MEMORY, NOWHERE, facts, CPU.device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"facts": []}, r"memory_scale\.facts must not be empty"),
        ({"facts": [10, 0]}, r"memory_scale\.facts must be at least 1, not 0"),
        ({"scans": 0}, r"memory_scale\.scans must be at least 1, not 0"),
        ({"codes_share": 1.1}, r"memory_scale\.codes_share must be from 0 to 1, not 1\.1"),
        ({"batch_sizes": [0]}, r"memory_scale\.batch_sizes must be at least 1, not 0"),
        ({"workers": -1}, r"memory_scale\.workers must be at least 0, not -1"),
        ({"parts": ["open"]}, r"memory_scale\.parts must be some of build, search, not \['open'\]"),
        ({"parts": ["build"]}, r"memory_scale\.parts is \['build'\], which takes memory_scale\.keep=true"),
        ({"exponent": 1.0}, r"memory_scale\.exponent must be from 0 to below 1, not 1\.0"),
    ],
)
def test_settings_that_can_not_be_are_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(tmp_path, **changes)


def test_what_is_mapped_counts_what_was_touched(tmp_path: Path) -> None:
    np.zeros(1 << 22, np.uint8).tofile(tmp_path / "a.bin")
    held = np.memmap(tmp_path / "a.bin", np.uint8, "r")
    assert mapped(tmp_path) == 0
    held.sum()
    assert mapped(tmp_path) == pytest.approx(4, abs=0.01)
    assert mapped(tmp_path / "b") == 0
