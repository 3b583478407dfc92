"""Draws AtlasKV's table 4 for our setting: `python -m pipeline.benchmark ablation`.

AtlasKV is trained on KG2KV rows of both kinds, without event-like values and without entities as values, and
then asked which fact of the graph answers a question about an entity that it was never trained on. ACC@1 and
ACC@5 go to ablation.json.
"""

import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.benchmarks.grounding import accuracy
from pipeline.config import Paths, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.grounding import Grounding, places, probes
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.learning import KINDS, School, drawn, last
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.batches import Train
from pipeline.model.reader import Reader
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

TAUGHT = {"all": KINDS, "without events": ("entity",), "without entities": ("event",)}
"""Kinds of rows that each training sees."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is trained, and what is asked of it."""

    entry: str
    """KBLaM or AtlasKV, as a file of conf/method, perhaps with other values."""
    rows: int
    """Rows of each kind."""
    seeds: list[int]
    """Of the rows, of training and of the questions."""
    steps: int
    """Optimiser steps of each training, whatever it leaves out."""
    sizes: list[int]
    """Facts that the right one is told apart from."""

    def __post_init__(self) -> None:
        if not self.seeds or not self.sizes:
            raise ValueError("ablation.seeds and ablation.sizes must not be empty")
        if min(self.rows, self.steps, *self.sizes) < 1:
            raise ValueError("ablation.rows, steps and sizes must be at least 1")


@stage
def ablation(
    ablation: Ablation,
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Train on each choice of rows with every seed, and look for facts."""
    graph, kv = Graph.read(paths.tables, relations=paths.kv), read_table(paths.kv, "kv")
    questions = read_table(paths.kv, "questions")
    reader, texts = Reader(lm, trainer.device), TextEncoder(encoder, trainer.device)
    school = School(ablation.entry, reader, texts, memory, train, trainer, ablation.steps, out)
    facts = KnowledgeMemory.open(paths.index, replace(memory, layout="slot"), texts)
    rows: list[dict[str, Any]] = []
    losses: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    found = {seed: drawn(graph, kv, ablation.rows, seed) for seed in ablation.seeds}
    for seed, (name, kinds) in product(ablation.seeds, TAUGHT.items()):
        taken = pa.concat_tables([found[seed][kind] for kind in kinds])
        system, curve = school.taught(taken, "right", seed, f"{name}, seed {seed}")
        losses.setdefault(name, []).extend(last(curve))
        counts[name] = len(taken)
        system.memory = facts
        asked = probes(graph, questions, grounding, seed)
        for size in ablation.sizes:
            for wording, seen in places(system, graph, asked, size, seed, grounding.batch_size).items():
                shared = {"method": name, "facts": size, "wording": wording}
                rows += [shared | {"place": place} for place in seen]
    told = provenance(overridden("python -m pipeline.benchmark ablation"), ablation.seeds)
    figures = {
        "rows": counts,
        "loss": {
            name: bootstrap(values, grounding.bootstrap_samples, 0)[0]._asdict()
            for name, values in losses.items()
        },
        "accuracy": accuracy(rows, grounding.bootstrap_samples),
    }
    told |= {"encoder": encoder.name, "settings": asdict(ablation), "figures": figures}
    (out / "ablation.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    ablation()
