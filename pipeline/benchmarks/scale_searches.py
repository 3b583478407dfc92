"""Searches of a made-up base on a processor, timed: the second half of `pipeline.benchmarks.memory_scale`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.benchmarks.made_up import MadeUp
from pipeline.benchmarks.processes import files_in, mapped, resident, spread
from pipeline.memory.base import Base
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.settings import Memory
from pipeline.memory.slots import search
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder

FIRST = 20
"""Questions asked while the files are not in main memory."""
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Searches:
    """What is searched, and how often."""

    graph: MadeUp
    folder: Path
    """Of the base that the graph was built into."""
    memory: Memory
    encoder: Encoder
    """Not loaded: no name is new."""
    questions: int
    scans: int
    dimensions: int
    codes_share: float
    batch_sizes: Sequence[int]
    seed: int

    def opened(self, device: torch.device) -> KnowledgeMemory:
        """Return the base as a memory on a device."""
        return KnowledgeMemory.open(self.folder, self.memory, TextEncoder(self.encoder, device))

    def query(self, random: np.random.Generator, size: int, device: torch.device) -> Query:
        """Return what so many questions ask for, where the memory is asked."""
        return Query(*(logits(random, size, self.dimensions).to(device) for _ in range(2)))


def searched(asked: Searches) -> dict[str, Any]:
    """Return the figures of this process, which opens the base."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    random = np.random.default_rng([asked.seed, 1])
    before = resident()
    start = time.perf_counter()
    held = asked.opened(torch.device("cpu"))
    told: dict[str, Any] = {"open ms": round((time.perf_counter() - start) * 1000, 2)}
    base = held.arrangement.base
    assert base is not None
    told["resident before"], told["resident when open"] = before, resident()
    told["uniform heads, files not in main memory"] = _slots(asked, base, random, FIRST, 1, uniform=True)
    for kind, uniform in (("uniform", True), ("zipf", False)):
        told[f"{kind} heads"] = _slots(asked, base, random, asked.questions, 1, uniform)
        for size in asked.batch_sizes:
            told[f"{kind} heads, {size} at a time"] = _slots(asked, base, random, 10, size, uniform)
    told["heads by their codes"] = _scanned(asked, base, random, 1.0)
    told["heads by their codes, chosen by first bits"] = _scanned(asked, base, random, asked.codes_share)
    for kind, share in (("queries", 1.0), ("queries by first bits", asked.codes_share)):
        with held.arrangement.using(replace(asked.memory, share=share), None):
            told[kind] = queried(held, asked, random, asked.scans, 1)
            for size in asked.batch_sizes:
                told[f"{kind}, {size} at a time"] = queried(held, asked, random, 3, size)
    told["names of candidates"] = _named(asked, base, random)
    told["resident"] = resident()
    everything = sum(file.stat().st_size for file in files_in(asked.folder)) / MIB
    rest = told["resident"]["resident MiB"] - mapped(asked.folder)
    told["of the base MiB"] = round(mapped(asked.folder), 1)
    told["if every page of them were touched MiB"] = round(rest + everything, 1)
    return told


def _slots(
    asked: Searches, base: Base, random: np.random.Generator, times: int, size: int, uniform: bool
) -> dict[str, float]:
    """Return milliseconds of `times` searches of `size` questions each among facts of given heads."""
    took, left_out, expanded = [], 0, 0
    for _ in range(times):
        heads, near, shares = given(asked, base, random, size, uniform)
        start = time.perf_counter()
        found = search(base, heads, near, shares, asked.memory.relation_weight, asked.memory.N)
        took.append((time.perf_counter() - start) * 1000)
        left_out += int(found.left_out.sum())
        expanded += int(base.counts(heads.reshape(-1).numpy()).sum())
    return spread(took) | {
        "facts of the heads": round(expanded / times / size, 1),
        "of them left out below better ones of their head": round(left_out / times / size, 1),
    }


def given(
    asked: Searches, base: Base, random: np.random.Generator, size: int, uniform: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return heads of so many questions, how near they are, and log-probabilities of the relations."""
    shape = size, asked.memory.entities
    count = size * asked.memory.entities
    rows = random.integers(0, base.entities, count) if uniform else asked.graph.ends(random, count)
    near = logits(random, *shape).sort(descending=True).values
    shares = torch.log_softmax(logits(random, size, asked.graph.relations), dim=-1)
    return torch.from_numpy(rows.reshape(shape)), near, shares


def _scanned(asked: Searches, base: Base, random: np.random.Generator, share: float) -> dict[str, float]:
    """Return milliseconds to find the heads of a question among all codes."""
    took = []
    assert base.entity_codes is not None
    for _ in range(asked.scans):
        query = logits(random, 1, asked.dimensions)
        start = time.perf_counter()
        base.entity_codes.search(query, asked.memory.entities, share=share)
        took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def queried(
    memory: KnowledgeMemory, asked: Searches, random: np.random.Generator, times: int, size: int
) -> dict[str, float]:
    """Return milliseconds of `times` whole searches of `size` questions each, from vectors to fact ids."""
    took = []
    for _ in range(times):
        query = asked.query(random, size, memory.device)
        start = time.perf_counter()
        memory.search(query).facts.cpu()
        took.append((time.perf_counter() - start) * 1000)
    return spread(took) | {"questions a second": round(1000 * size * times / sum(took), 1)}


def _named(asked: Searches, base: Base, random: np.random.Generator) -> dict[str, float]:
    """Return milliseconds to read the names of a question's candidates, and to find as many keys again."""
    took = []
    for _ in range(asked.questions):
        ids = random.integers(0, len(base), asked.memory.N)
        start = time.perf_counter()
        heads, relations, tails = base.triples(ids).T
        base.entity_texts.many(heads)
        base.relation_texts.many(relations)
        base.entity_texts.many(tails)
        keys = base.entity_keys.many(heads)
        base.entity_keys.find(keys)
        took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def logits(random: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Return what a query's products might be."""
    return torch.from_numpy(random.normal(0, 3, (rows, columns)).astype(np.float32))
