"""Draws AtlasKV's table 3 for our methods: `python -m pipeline.benchmark grounding`.

ACC@1 and ACC@5 of every method in conf/grounding, over numbers of facts and wordings, with the adapters at
`paths.adapters`. The figures go to grounding.json, with the number of facts that were generated, the place of
the right fact of every question to grounding.parquet, both in the run's folder; with them, how far the names
in the questions lead to the facts, of all and of those that were missed among the most facts.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from pipeline.config import ConfigError, Paths, UserError, stage
from pipeline.evaluation.distractors import add_distractors
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.grounding import AS_ASKED, DEPTH, Grounding, places, probes
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.misses import Misses
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.settings import Memory
from pipeline.model.closedbook import ClosedBook
from pipeline.model.dysk import Dysk
from pipeline.model.icl import Icl
from pipeline.model.rag import Rag
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

FROZEN = "encoder"
"""What the retrieval of `rag` is called: nothing of it is trained."""


@stage
def grounding(
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure every method with every seed at every size."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.kv, "questions")
    if trainer.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: all facts are scored
    most = int(graph.live(0).sum())
    sizes = sorted(set(grounding.sizes))
    rows: list[dict[str, Any]] = []
    generated: dict[str, Any] = {}
    misses = Misses(graph)
    missed: dict[str, list[tuple[str, int]]] = {}
    variants = [chosen(text, memory) for text in grounding.methods]
    if sizes[-1] > most:
        refuse_rotate(variants, most)
    runs = list(product(variants, grounding.seeds))
    with tqdm(total=len(runs) * len(sizes), desc="grounding", unit="memory") as progress:
        for variant, seed in runs:
            system = variant.open(lm, encoder, graph, paths, trainer.device, seed, variant.name != FROZEN)
            asked = probes(graph, questions, grounding, seed)
            real, known = np.flatnonzero(system.memory.alive), len(system.memory.entities)
            for size in sizes:
                missing = size - len(system.memory)
                if missing > 0:
                    add_distractors(system.memory, real, missing, grounding.distractors, seed)
                    made = generated.setdefault(str(size), {"facts": size - len(real), "entities": {}})
                    made["entities"][str(seed)] = len(system.memory.entities) - known
                found = places(system, graph, asked, size, seed, grounding.batch_size)
                shared = {"method": variant.name, "seed": seed, "facts": size}
                for wording, seen in found.items():
                    rows += [
                        shared | {"wording": wording, "question": probe.id, "place": place}
                        for probe, place in zip(asked, seen, strict=True)
                    ]
                progress.update()
            known_by = [(probe.texts[AS_ASKED], probe.facts[0]) for probe in asked]
            first = (place == 1 for place in found[AS_ASKED])
            missed.setdefault(variant.name, []).extend(
                one for one, right in zip(known_by, first, strict=True) if not right
            )
    pq.write_table(pa.Table.from_pylist(rows), out / "grounding.parquet", compression="zstd")
    figures = {
        "facts": most,
        "generated": {"vectors": grounding.distractors, "sizes": generated},
        "accuracy": accuracy(rows, grounding.bootstrap_samples),
        "missed": {name: misses.count(these) for name, these in missed.items()},
    }
    command = overridden("python -m pipeline.benchmark grounding")
    told = provenance(command, grounding.seeds) | {"figures": figures}
    (out / "grounding.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def chosen(text: str, memory: Memory) -> Variant:
    """Return the variant that an entry of `grounding.methods` names.

    Raises:
        ConfigError: there is no such method or value, or it finds no facts.
    """
    variant = Variant.read(text, memory)
    if isinstance(variant.method, ClosedBook | Icl):
        raise ConfigError(f"grounding.methods: {text} finds no facts; leave it out")
    return replace(variant, name=FROZEN) if isinstance(variant.method, Rag) else variant


def refuse_rotate(variants: Sequence[Variant], most: int) -> None:
    """Refuse methods that embed facts by the graph's RotatE vectors, which generated entities lack.

    Raises:
        UserError: there is one.
    """
    for variant in variants:
        if isinstance(variant.method, Dysk) and variant.method.space != "text":
            raise UserError(
                f"grounding.methods: {variant.name} needs RotatE vectors, which generated facts lack; leave "
                f"it out, choose space=text, or ask for grounding.sizes of at most {most}, which the data has"
            )


def accuracy(rows: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Return ACC@1 and ACC@5 with intervals, by method, wording and number of facts."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["wording"], row["facts"]), []).append(row["place"])
    figures: dict[str, Any] = {}
    for (method, wording, facts), found in sorted(groups.items()):
        at = np.array(found)
        table = np.stack([at == 1, (at > 0) & (at <= DEPTH)], axis=1).astype(float)
        first, five = (interval._asdict() for interval in bootstrap(table, samples, 0))
        told = {"acc1": first, f"acc{DEPTH}": five, "questions": len(found)}
        figures.setdefault(method, {}).setdefault(wording, {})[str(facts)] = told
    return figures


if __name__ == "__main__":
    grounding()
