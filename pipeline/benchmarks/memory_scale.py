"""Measures what a memory of many facts takes: `python -m pipeline.benchmark memory_scale`.

A graph is made up and built into a base, with codes of random vectors, in one process; a fresh one opens it
as a memory. It searches the slots of given heads, the first time out of files that the system no longer holds
in main memory, heads among the codes, and facts for whole queries. Seconds, milliseconds, bytes and resident
memory, in which mapped pages count, go to memory_scale.json.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.benchmarks.made_up import MadeUp
from pipeline.benchmarks.processes import STATUS, alone, files_in, forget, mapped, resident, spread
from pipeline.config import UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.memory.base import CODES, Base
from pipeline.memory.build import build
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.settings import Memory
from pipeline.memory.slots import search
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder

SORTING, FACT, NAMES = 8.2, 6.3, 40
"""Bytes on disk: of a fact while facts are sorted, of a fact in a base, of an entity's names."""
FIRST = 20
"""Questions asked while the files are not in main memory."""
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MemoryScale:
    """Which sizes are measured, and how often."""

    facts: list[int]
    """Facts that are drawn; those that come again are left out."""
    facts_per_entity: int
    """Wikidata has about 15."""
    relations: int
    """Up to 65,536."""
    exponent: float
    """Of Zipf's law, which degrees follow: from 0 to below 1."""
    seed: int
    """Of the graph and of the questions."""
    questions: int
    """Searches of one question that are timed, of each kind of heads."""
    scans: int
    """Searches of one question among the codes of all entities that are timed."""
    dimensions: int
    """Of an entity's vector, which the code keeps one bit each of."""
    codes_share: float
    """Of the codes that are compared in full where first bits choose."""
    batch_size: int
    """Questions of a batch."""
    sorting_mib: int
    """Main memory that the build may sort in."""
    folder: Path
    """Where bases are built; removed afterwards."""

    def __post_init__(self) -> None:
        if not self.facts:
            raise ValueError("memory_scale.facts must not be empty")
        if min(self.facts) < 1:
            raise ValueError(f"memory_scale.facts must be at least 1, not {min(self.facts)}")
        names = (
            "facts_per_entity",
            "relations",
            "scans",
            "dimensions",
            "questions",
            "batch_size",
            "sorting_mib",
        )
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"memory_scale.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.codes_share <= 1:
            raise ValueError(f"memory_scale.codes_share must be from 0 to 1, not {self.codes_share}")
        if not 0 <= self.exponent < 1:
            raise ValueError(f"memory_scale.exponent must be from 0 to below 1, not {self.exponent}")

    def graph(self, facts: int) -> MadeUp:
        """Return the graph of so many facts."""
        entities = max(1, facts // self.facts_per_entity)
        return MadeUp(facts, entities, self.relations, self.exponent, self.seed)


@stage
def memory_scale(memory: Memory, encoder: Encoder, memory_scale: MemoryScale, out: Path) -> None:
    """Measure each size."""
    memory = replace(memory, layout="factored", backend="codes")
    told = provenance(overridden("python -m pipeline.benchmark memory_scale"), [memory_scale.seed])
    settings = {name: value for name, value in asdict(memory_scale).items() if name != "folder"}
    settings |= {"memory": asdict(memory)}
    figures = {str(facts): measured(memory_scale, memory, encoder, facts) for facts in memory_scale.facts}
    told |= {"settings": settings, "figures": figures}
    (out / "memory_scale.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def measured(settings: MemoryScale, memory: Memory, encoder: Encoder, facts: int) -> dict[str, Any]:
    """Return the figures of one size.

    Raises:
        UserError: the disk has too little room, or the system doesn't tell what is resident.
    """
    if not STATUS.is_file():
        raise UserError(f"{STATUS}: not there, so resident memory can't be told; run this on Linux")
    graph = settings.graph(facts)
    folder = settings.folder / "memory_scale"
    settings.folder.mkdir(parents=True, exist_ok=True)
    code = settings.dimensions / 8 + 2
    needed = max(SORTING * facts, FACT * facts + code * graph.entities) + NAMES * graph.entities
    free = shutil.disk_usage(settings.folder).free
    if free < needed:
        raise UserError(
            f"{settings.folder}: {free / 1e9:.1f} GB are free, but a base of {facts} facts needs about "
            f"{needed / 1e9:.1f} GB while it is built; set memory_scale.folder to a larger disk, or leave "
            "the size out"
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = alone(partial(_built, graph, folder, settings))
        forget(folder)
        searched = alone(partial(_searched, graph, folder, settings, memory, encoder))
        return {"build": made, "search": searched}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _built(graph: MadeUp, folder: Path, settings: MemoryScale) -> dict[str, Any]:
    before = resident()
    start, used = time.perf_counter(), time.process_time()
    names = graph.names("Q", graph.entities), graph.names("P", graph.relations)
    with tqdm(total=2 * graph.facts, desc=f"{graph.facts} facts", unit="fact", unit_scale=True) as bar:

        def told(what: str, more: int) -> None:
            bar.update(more if what.startswith("facts") else 0)

        vectors = graph.vectors(settings.dimensions)
        memory = settings.sorting_mib * MIB
        base, again = build(folder, *names, graph.blocks(), memory, told, vectors)
        bar.update(again)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    bare = sum(size for name, size in files.items() if name.startswith(("facts", "heads")))
    codes = sum(size for name, size in files.items() if name.startswith(CODES))
    return {
        "facts": len(base),
        "drawn twice": again,
        "entities": base.entities,
        "relations": graph.relations,
        "seconds": round(seconds, 1),
        "processor seconds": round(processor, 1),
        "resident before": before,
        "resident": resident(),
        "bytes a fact": round(sum(files.values()) / len(base), 2),
        "bytes a fact without names and codes": round(bare / len(base), 2),
        "bytes of codes an entity": round(codes / base.entities, 2),
        "bytes": files,
    }


def _searched(
    graph: MadeUp, folder: Path, settings: MemoryScale, memory: Memory, encoder: Encoder
) -> dict[str, Any]:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    random = np.random.default_rng([settings.seed, 1])
    before = resident()
    start = time.perf_counter()
    held = KnowledgeMemory.open(folder, memory, TextEncoder(encoder, "cpu"))
    told: dict[str, Any] = {"open ms": round((time.perf_counter() - start) * 1000, 2)}
    base = held.arrangement.base
    assert base is not None
    told["resident before"], told["resident when open"] = before, resident()
    ask = partial(_asked, graph, base, settings, memory, random)
    told["uniform heads, files not in main memory"] = ask(FIRST, 1, uniform=True)
    for kind, uniform in (("uniform", True), ("zipf", False)):
        told[f"{kind} heads"] = ask(settings.questions, 1, uniform)
        told[f"{kind} heads, {settings.batch_size} at a time"] = ask(10, settings.batch_size, uniform)
    told["heads by their codes"] = _scanned(base, settings, memory, random, 1.0)
    told["heads by their codes, chosen by first bits"] = _scanned(
        base, settings, memory, random, settings.codes_share
    )
    for kind, share in (("queries", 1.0), ("queries by first bits", settings.codes_share)):
        with held.arrangement.using(replace(memory, share=share), None):
            told[kind] = _queried(held, settings, random, settings.scans, 1)
            told[f"{kind}, {settings.batch_size} at a time"] = _queried(
                held, settings, random, 3, settings.batch_size
            )
    told["names of candidates"] = _named(base, settings, memory, random)
    told["resident"] = resident()
    everything = sum(file.stat().st_size for file in files_in(folder)) / MIB
    rest = told["resident"]["resident MiB"] - mapped(folder)
    told["of the base MiB"] = round(mapped(folder), 1)
    told["if every page of them were touched MiB"] = round(rest + everything, 1)
    return told


def _asked(
    graph: MadeUp,
    base: Base,
    settings: MemoryScale,
    memory: Memory,
    random: np.random.Generator,
    times: int,
    size: int,
    uniform: bool,
) -> dict[str, float]:
    """Return milliseconds of `times` searches of `size` questions each."""
    took, left_out, expanded = [], 0, 0
    for _ in range(times):
        shape = (size, memory.entities)
        count = size * memory.entities
        rows = random.integers(0, base.entities, count) if uniform else graph.ends(random, count)
        heads, near = (
            torch.from_numpy(rows.reshape(shape)),
            _logits(random, *shape).sort(descending=True).values,
        )
        shares = torch.log_softmax(_logits(random, size, settings.relations), dim=-1)
        start = time.perf_counter()
        found = search(base, heads, near, shares, memory.relation_weight, memory.N)
        took.append((time.perf_counter() - start) * 1000)
        left_out += int(found.left_out.sum())
        expanded += int(base.counts(rows).sum())
    return spread(took) | {
        "facts of the heads": round(expanded / times / size, 1),
        "of them left out below better ones of their head": round(left_out / times / size, 1),
    }


def _scanned(
    base: Base, settings: MemoryScale, memory: Memory, random: np.random.Generator, share: float
) -> dict[str, float]:
    """Return milliseconds to find the heads of a question among all codes."""
    took = []
    assert base.entity_codes is not None
    for _ in range(settings.scans):
        query = _logits(random, 1, settings.dimensions)
        start = time.perf_counter()
        base.entity_codes.search(query, memory.entities, share=share)
        took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def _queried(
    memory: KnowledgeMemory, settings: MemoryScale, random: np.random.Generator, times: int, size: int
) -> dict[str, float]:
    """Return milliseconds of `times` whole searches of `size` questions each."""
    took = []
    for _ in range(times):
        query = Query(_logits(random, size, settings.dimensions), _logits(random, size, settings.dimensions))
        start = time.perf_counter()
        memory.search(query)
        took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def _named(
    base: Base, settings: MemoryScale, memory: Memory, random: np.random.Generator
) -> dict[str, float]:
    """Return milliseconds to read the names of a question's candidates, and to find as many keys again."""
    took = []
    for _ in range(settings.questions):
        ids = random.integers(0, len(base), memory.N)
        start = time.perf_counter()
        heads, relations, tails = base.triples(ids).T
        base.entity_texts.many(heads)
        base.relation_texts.many(relations)
        base.entity_texts.many(tails)
        keys = base.entity_keys.many(heads)
        base.entity_keys.find(keys)
        took.append((time.perf_counter() - start) * 1000)
    return spread(took)


def _logits(random: np.random.Generator, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(random.normal(0, 3, (rows, columns)).astype(np.float32))


if __name__ == "__main__":
    memory_scale()
