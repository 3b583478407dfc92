"""Measures what a memory of many facts takes: `python -m pipeline.benchmark memory_scale`.

A graph is made up and built into a base, with codes of random vectors, in one process; a fresh one opens it
as a memory. It searches the slots of given heads, the first time out of files that the system no longer holds
in main memory, heads among the codes, and facts for whole queries; on a GPU, where `trainer` chooses one,
what `pipeline.benchmarks.scale_on_gpu` says. Seconds, milliseconds, bytes and resident memory, in which
mapped pages count, go to memory_scale.json, beside the exponents by which milliseconds grow with the facts.

Building and searching may be two commands: `memory_scale.parts=[build]`, then `memory_scale.parts=[search]`,
both with `memory_scale.keep=true`.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.benchmarks.made_up import MadeUp
from pipeline.benchmarks.processes import STATUS, alone, forget, resident
from pipeline.benchmarks.scale_on_gpu import searched_on_gpu
from pipeline.benchmarks.scale_searches import MIB, Searches, searched
from pipeline.config import UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.memory.base import CODES
from pipeline.memory.build import build
from pipeline.memory.disk import write_whole
from pipeline.memory.settings import Memory
from pipeline.trainer import Trainer
from pipeline.weights import Encoder

PARTS = ("build", "search")
SORTING, FACT, NAMES = 8.2, 6.3, 40
"""Bytes on disk: of a fact while facts are sorted, of a fact in a base, of an entity's names."""


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
    batch_sizes: list[int]
    """Questions of a batch."""
    sorting_mib: int
    """Main memory that the build may sort in."""
    workers: int
    """Threads that build, one a core for 0; the bytes are the same with any number."""
    parts: list[str]
    """`build`, `search` or both."""
    keep: bool
    """Whether bases stay in `folder`, and are searched there as they are by a later command."""
    folder: Path
    """Where bases are built."""

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
            "sorting_mib",
        )
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"memory_scale.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.codes_share <= 1:
            raise ValueError(f"memory_scale.codes_share must be from 0 to 1, not {self.codes_share}")
        if not 0 <= self.exponent < 1:
            raise ValueError(f"memory_scale.exponent must be from 0 to below 1, not {self.exponent}")
        self._check_parts()

    def _check_parts(self) -> None:
        if self.batch_sizes and min(self.batch_sizes) < 1:
            raise ValueError(f"memory_scale.batch_sizes must be at least 1, not {min(self.batch_sizes)}")
        if self.workers < 0:
            raise ValueError(f"memory_scale.workers must be at least 0, not {self.workers}")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ValueError(f"memory_scale.parts must be some of {', '.join(PARTS)}, not {self.parts}")
        if self.parts != list(PARTS) and not self.keep:
            raise ValueError(f"memory_scale.parts is {self.parts}, which takes memory_scale.keep=true")

    def graph(self, facts: int) -> MadeUp:
        """Return the graph of so many facts."""
        entities = max(1, facts // self.facts_per_entity)
        return MadeUp(facts, entities, self.relations, self.exponent, self.seed)


@stage
def memory_scale(
    memory: Memory, encoder: Encoder, memory_scale: MemoryScale, trainer: Trainer, out: Path
) -> None:
    """Measure each size."""
    memory = replace(memory, layout="factored", backend="codes")
    device = trainer.device
    told = provenance(overridden("python -m pipeline.benchmark memory_scale"), [memory_scale.seed])
    settings = {name: value for name, value in asdict(memory_scale).items() if name != "folder"}
    settings |= {"memory": asdict(memory)}
    told |= {"settings": settings, "figures": {}, "exponents": {}}
    for facts in memory_scale.facts:
        told["figures"][str(facts)] = measured(memory_scale, memory, encoder, facts, device)
        told["exponents"] = exponents(told["figures"])
        # After each: a larger one may find no room.
        (out / "memory_scale.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def measured(
    settings: MemoryScale, memory: Memory, encoder: Encoder, facts: int, device: torch.device
) -> dict[str, Any]:
    """Return the figures of one size.

    Raises:
        UserError: the disk has too little room, the system doesn't tell what is resident, or a base that is
            to be searched isn't there.
    """
    if not STATUS.is_file():
        raise UserError(f"{STATUS}: not there, so resident memory can't be told; run this on Linux")
    graph = settings.graph(facts)
    folder = settings.folder / f"memory_scale-{facts}"
    built = folder.with_suffix(".json")
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        if "build" in settings.parts:
            _make_room(settings, graph, folder)
            made = alone(partial(_built, graph, folder, settings))
            write_whole(built, json.dumps(made).encode())
        elif not built.is_file():
            raise UserError(
                f"{built}: not there; build this size first, with memory_scale.parts=[build] and "
                "memory_scale.keep=true"
            )
        told = {"build": json.loads(built.read_text(encoding="utf-8"))}
        if "search" in settings.parts:
            forget(folder)
            told["search"] = alone(partial(_searched, graph, folder, settings, memory, encoder, device))
        return told
    finally:
        if not settings.keep:
            shutil.rmtree(folder, ignore_errors=True)
            built.unlink(missing_ok=True)


def _make_room(settings: MemoryScale, graph: MadeUp, folder: Path) -> None:
    """Remove an earlier base.

    Raises:
        UserError: the disk has too little room for a new one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".json").unlink(missing_ok=True)
    code = settings.dimensions / 8 + 2
    facts = graph.facts
    needed = max(SORTING * facts, FACT * facts + code * graph.entities) + NAMES * graph.entities
    free = shutil.disk_usage(settings.folder).free
    if free < needed:
        raise UserError(
            f"{settings.folder}: {free / 1e9:.1f} GB are free, but a base of {facts} facts needs about "
            f"{needed / 1e9:.1f} GB while it is built; set memory_scale.folder to a larger disk, or leave "
            "the size out"
        )


def _built(graph: MadeUp, folder: Path, settings: MemoryScale) -> dict[str, Any]:
    workers = settings.workers or len(os.sched_getaffinity(0))
    before = resident()
    start, used = time.perf_counter(), time.process_time()
    names = graph.names("Q", graph.entities), graph.names("P", graph.relations)
    with tqdm(total=2 * graph.facts, desc=f"{graph.facts} facts", unit="fact", unit_scale=True) as bar:

        def told(what: str, more: int) -> None:
            bar.update(more if what.startswith("facts") else 0)

        vectors, memory = graph.vectors(settings.dimensions, workers), settings.sorting_mib * MIB
        base, again = build(folder, *names, graph.blocks(workers), memory, told, vectors, workers)
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
        "workers": workers,
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
    graph: MadeUp, folder: Path, settings: MemoryScale, memory: Memory, encoder: Encoder, device: torch.device
) -> dict[str, Any]:
    asked = Searches(
        graph=graph,
        folder=folder,
        memory=memory,
        encoder=encoder,
        questions=settings.questions,
        scans=settings.scans,
        dimensions=settings.dimensions,
        codes_share=settings.codes_share,
        batch_sizes=settings.batch_sizes,
        seed=settings.seed,
    )
    return searched_on_gpu(asked, device) if device.type == "cuda" else searched(asked)


def exponents(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the slope of the median milliseconds over the facts, both as logarithms, by least squares.

    Of everything that was timed at two sizes at least: 0 doesn't grow with the facts, 1 grows as they do.
    """
    timed = [(row["build"]["facts"], row.get("search", {})) for row in figures.values()]
    names = [name for name, value in timed[-1][1].items() if isinstance(value, dict) and "p50 ms" in value]
    if len(timed) < 2:
        return {}
    sizes = np.log([facts for facts, _ in timed])
    medians = {name: np.log([search[name]["p50 ms"] for _, search in timed]) for name in names}
    return {name: round(float(np.polyfit(sizes, values, 1)[0]), 3) for name, values in medians.items()}


if __name__ == "__main__":
    memory_scale()
