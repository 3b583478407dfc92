"""Searches of a made-up base on a GPU, timed: what `pipeline.benchmarks.scale_searches` is for a processor.

What counts as taken is what torch has reserved on the GPU and what of this process lies in main memory, its
mapped pages too. Milliseconds go from vectors on the GPU to the facts' ids in main memory.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.processes import mapped, resident, spread
from pipeline.benchmarks.scale_searches import MIB, Searches, given, queried
from pipeline.memory.base import Base
from pipeline.memory.gathering import ResidentFacts
from pipeline.memory.resident import ResidentCodes
from pipeline.memory.scan import Plain, largest, rounded

FEW = 4
"""Questions that are searched by kernels and without, to compare what they find."""
BATCHES = 20
"""Batches that are timed, of each size."""
WARM = 2
"""Searches before any is timed: the first ones compile kernels, one for each width of a batch."""


def searched_on_gpu(asked: Searches, device: torch.device) -> dict[str, Any]:
    """Return the figures of this process, which opens the base and copies it to the GPU."""
    random = np.random.default_rng([asked.seed, 1])
    before = resident()
    start = time.perf_counter()
    held = asked.opened(device)
    told: dict[str, Any] = {"gpu": _name(device), "open ms": round((time.perf_counter() - start) * 1000, 2)}
    base = held.arrangement.base
    assert base is not None
    told["resident before"], told["resident when open"] = before, resident()
    start = time.perf_counter()
    held.search(asked.query(random, 1, device)).facts.cpu()
    told["first answer s"] = round(time.perf_counter() - start, 2)
    for size in (1, *asked.batch_sizes):
        queried(held, asked, random, WARM, size)
        name = "queries" if size == 1 else f"queries, {size} at a time"
        told[name] = queried(held, asked, random, asked.questions if size == 1 else BATCHES, size)
    told["resident"] = resident()
    told["of the base MiB"] = round(mapped(asked.folder), 1)
    told["reserved on the GPU MiB"] = round(reserved(device), 1)
    told["taken in all MiB"] = round(told["resident"]["resident MiB"] + reserved(device), 1)
    return told | _parts(asked, base, random, device)  # with copies of its own


def _parts(asked: Searches, base: Base, random: np.random.Generator, device: torch.device) -> dict[str, Any]:
    """Return the milliseconds of the scan alone, those of the facts of given heads, and a check."""
    assert base.entity_codes is not None
    codes, facts = ResidentCodes(base.entity_codes, device), ResidentFacts(base, device)
    none = torch.empty(0, dtype=torch.long, device=device)
    weight, n, table = asked.memory.relation_weight, asked.memory.N, codes.table
    few = rounded(asked.query(random, FEW, device).key, len(table.words))
    plain, fast = (largest(table, few, min(n, len(codes)), scan) for scan in (Plain(), None))
    told: dict[str, Any] = {"finds what is found without kernels": torch.equal(plain, fast)}
    for size in (1, *asked.batch_sizes):
        times, more = (asked.questions, "") if size == 1 else (BATCHES, f", {size} at a time")

        def scan(size: int = size) -> Callable[[], Any]:
            key = asked.query(random, size, device).key
            return lambda: codes.search(key, asked.memory.entities)[1].cpu()

        def gather(uniform: bool, size: int = size) -> Callable[[], Any]:
            heads, near, shares = (part.to(device) for part in given(asked, base, random, size, uniform))
            return lambda: facts.found(heads, near, shares, weight, n, none).candidates.facts.cpu()

        told[f"heads by their codes{more}"] = _timed(scan, times)
        told[f"uniform heads{more}"] = _timed(partial(gather, True), times)
        told[f"zipf heads{more}"] = _timed(partial(gather, False), times)
    return told


def _timed(made: Callable[[], Callable[[], Any]], times: int) -> dict[str, float]:
    """Return the milliseconds of what `made` returns, made anew each time."""
    took = []
    for time_ in range(-WARM, times):
        run = made()
        start = time.perf_counter()
        run()
        if time_ >= 0:
            took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def reserved(device: torch.device) -> float:
    """Return MiB that torch has reserved on a GPU."""
    return torch.cuda.memory_reserved(device) / MIB if device.type == "cuda" else 0.0


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
