"""Measures changes to a large memory while others search it: `python -m pipeline.benchmark updates`.

A made-up graph is built into a durable memory. One process writes facts of known entities at a steady rate;
others, each busy for half of the time, follow what it writes and search. How long a change takes until the
next search sees it, how long one takes that is on disk when it returns, how fast many come in at once, what
it takes while a merge goes on, and what the searches of the others cost beside all that and without it, by
the clock and of the processor, go to updates.json.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from pipeline.benchmarks.made_up import MadeUp
from pipeline.benchmarks.processes import spread, timed
from pipeline.benchmarks.readers import Readers, reading
from pipeline.config import UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.memory import generations
from pipeline.memory.build import build
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Query
from pipeline.memory.merging import Merging
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder

FACT = 60
"""Bytes on disk that a fact of the made-up memory takes, generously, while it is built."""
NEAR = 30.0
"""Length of a query for one entity: that entity comes first by far."""


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How large the memory is, and what is done to it."""

    facts: int
    """Facts that are drawn; those that come again are left out."""
    facts_per_entity: int
    """Wikidata has about 15."""
    relations: int
    """Up to 65,536."""
    exponent: float
    """Of Zipf's law, which degrees follow: from 0 to below 1."""
    dimensions: int
    """Of a name's vector; those of new names are the encoder's."""
    seed: int
    """Of the graph and of what is written."""
    rate: float
    """Changes a second beside the readers."""
    seconds: float
    """For which they are written, and for which the readers search without them."""
    readers: int
    """Processes that search meanwhile, each for half of its time."""
    checked: int
    """Changes after each of which a search must find the new fact."""
    synced: int
    """Changes that are timed with each way of bringing them to disk."""
    new: int
    """Changes that name an entity which isn't known."""
    bulk: int
    """Facts that are written at once, in batches."""
    batch: int
    """Facts of such a batch, each one record of the journal."""
    folder: Path
    """Where the memory is built; removed afterwards."""

    def __post_init__(self) -> None:
        least = {"rate": 0.001, "seconds": 0.001, "readers": 0, "new": 0}
        names = ("facts", "facts_per_entity", "relations", "dimensions", "checked", "synced", "bulk", "batch")
        for name in (*names, *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"updates.{name} must be at least {least.get(name, 1)}")
        if not 0 <= self.exponent < 1:
            raise ValueError(f"updates.exponent must be from 0 to below 1, not {self.exponent}")


@stage
def updates(updates: Updates, memory: Memory, encoder: Encoder, out: Path) -> None:
    """Build the memory and measure."""
    memory = replace(memory, layout="factored", backend="codes", merge_after=0)
    told = provenance(overridden("python -m pipeline.benchmark updates"), [updates.seed])
    told["machine"]["load before"] = round(os.getloadavg()[0], 2)
    told["settings"] = {k: v for k, v in asdict(updates).items() if k != "folder"} | {
        "memory": asdict(memory)
    }
    folder = updates.folder / "updates"
    updates.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(updates.folder).free
    if free < FACT * updates.facts:
        raise UserError(
            f"{updates.folder}: {free / 1e9:.1f} GB are free, but {updates.facts} facts take about "
            f"{FACT * updates.facts / 1e9:.1f} GB; set updates.folder to a larger disk, or write fewer"
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        told["figures"] = measured(updates, memory, TextEncoder(encoder, "cpu"), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (out / "updates.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def measured(settings: Updates, memory: Memory, encoder: TextEncoder, folder: Path) -> dict[str, Any]:
    """Return the figures of a memory that is made in `folder`."""
    size = max(1, settings.facts // settings.facts_per_entity)
    graph = MadeUp(settings.facts, size, settings.relations, settings.exponent, settings.seed)
    names = graph.names("Q", size), graph.names("P", settings.relations)
    vectors = graph.vectors(settings.dimensions)
    folder.mkdir()
    with tqdm(total=2 * settings.facts, desc="build", unit="fact", unit_scale=True) as bar:
        write = partial(build, entities=names[0], relations=names[1], facts=graph.blocks(), more=vectors)
        told = partial(_told, bar)
        generations.begin(folder, 1, 1, encoder.name, lambda base: write(base, told=told) and None)
    opened = timed(lambda: KnowledgeMemory.open(folder, memory, encoder))
    facts = Drawn(settings, size)
    readers = Readers(settings.readers, settings.dimensions, settings.seed)
    found: dict[str, Any] = {"entities": size, "open ms": round(opened, 2)}
    for policy in ("none", "group", "always"):
        with DurableMemory.begun(folder, memory, encoder, policy) as held:
            took = [timed(lambda: held.upsert([facts.one()])) for _ in range(settings.synced)]
            found[f"one change, sync={policy}"] = spread(took)
    with DurableMemory.begun(folder, memory, encoder, "none") as held:
        with reading(readers, memory, encoder, folder) as asked:
            time.sleep(settings.seconds)
            found["searches without changes"] = asked()
        with reading(readers, memory, encoder, folder) as asked:
            found["changes at a rate"] = _steadily(held, settings, facts)
            found["searches beside changes"] = asked()
        with reading(readers, memory, encoder, folder) as asked:
            held.begin_merge()
            found["changes at a rate beside a merge"] = _steadily(held, settings, facts, held.merging)
            found["searches beside changes and a merge"] = asked()
        if usual := found["searches without changes"]:
            for name, of in (("searches", ""), ("processor time of searches", "of the processor, ")):
                rise = found["searches beside changes"][f"{of}p99 ms"] / usual[f"{of}p99 ms"]
                found[f"{name}, p99 beside changes over p99 without"] = round(rise, 3)
        found["new entities"] = _named(held, settings, facts)
        found["many at once"] = _bulk(held, settings, facts)
    return found


def _told(bar: "tqdm[Any]", what: str, more: int) -> None:
    bar.update(more if what.startswith("facts") else 0)


class Drawn:
    """Facts of known entities, drawn.

    Args:
        settings: their seed, and of which relations they are.
        entities: how many there are.
    """

    def __init__(self, settings: Updates, entities: int) -> None:
        self._random = np.random.default_rng([settings.seed, 4])
        self._sizes = entities, settings.relations, entities

    def one(self) -> Fact:
        """Return one."""
        return self.many(1)[0]

    def many(self, count: int) -> list[Fact]:
        """Return several."""
        drawn = self._random.integers(0, self._sizes, (count, 3)).tolist()
        return [Fact(f"Q{h}", f"P{r}", f"Q{t}") for h, r, t in drawn]


def _steadily(
    memory: DurableMemory, settings: Updates, facts: Drawn, merge: Merging | None = None
) -> dict[str, Any]:
    """Write at the rate and return how long each change took, and how many were not found at once.

    It goes on for the time that is set, or until `merge` has ended.
    """
    took: list[float] = []
    late, missed, checked, spent = 0, 0, 0, 0.0
    count = int(settings.rate * settings.seconds)
    every = max(1, count // settings.checked)
    given = facts.many(count)
    start = time.perf_counter()
    while merge.going if merge is not None else len(took) < count:
        fact = given[len(took)] if merge is None else facts.one()
        wait = start + len(took) / settings.rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        late += wait < -1 / settings.rate
        before = time.process_time()
        took.append(timed(partial(memory.upsert, [fact])))
        spent += time.process_time() - before
        if len(took) % every == 0 and checked < settings.checked:
            checked += 1
            missed += not _finds(memory, fact)
    seconds = time.perf_counter() - start
    if merge is not None:
        merge.wait()
    return spread(took) | {
        "seconds": round(seconds, 1),
        "a second": round(len(took) / seconds, 1),
        "of the processor, mean ms": round(1000 * spent / len(took), 3),
        "begun late": late,
        "checked by a search": checked,
        "not found by it": missed,
    }


def _finds(memory: KnowledgeMemory, fact: Fact) -> bool:
    """Return whether a search for the fact's entity and relation finds it."""
    head = memory.entities.gather(torch.tensor([memory.entities.row(fact.head)]))
    relation = memory.relations.gather(torch.tensor([memory.relations.row(fact.relation)]))
    query = Query(NEAR * F.normalize(head.float(), dim=-1), NEAR * F.normalize(relation.float(), dim=-1))
    return memory.find(*fact.key) in memory.search(query).facts[0].tolist()


def _named(memory: DurableMemory, settings: Updates, facts: Drawn) -> dict[str, Any]:
    """Return milliseconds of changes that name a new entity, whose vector the encoder makes."""
    if not settings.new:
        return {}
    known = facts.many(settings.new + 1)
    given = [replace(f, head=f"new/{i}", head_label=f"new place {i}") for i, f in enumerate(known)]
    memory.upsert(given[:1])  # loads the encoder
    return spread([timed(partial(memory.upsert, [fact])) for fact in given[1:]])


def _bulk(memory: DurableMemory, settings: Updates, facts: Drawn) -> dict[str, Any]:
    """Return how many facts a second come in by batches."""
    seconds, written = 0.0, 0
    for start in tqdm(range(0, settings.bulk, settings.batch), desc="many at once", unit="batch"):
        given = facts.many(min(settings.batch, settings.bulk - start))
        seconds += timed(partial(memory.upsert, given)) / 1000
        written += len(given)
    return {"facts": written, "seconds": round(seconds, 2), "facts a second": round(written / seconds)}


if __name__ == "__main__":
    updates()
