"""Draws AtlasKV's figure 6 for our methods: `python -m pipeline.benchmark pruning`.

ACC@1, ACC@5 and exact match of methods that prune by HiKVP, over each of k_R, k_I and k_L while the other
two stay at the paper's 128, 64 and 16, and without pruning. The questions are those of conf/grounding as they
stand in the data. The figures go to pruning.json.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.grounding import AS_ASKED, DEPTH, Grounding, Probe, memories, probes, ranked
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.metrics import exact_match
from pipeline.evaluation.pruning import PAPER, Kept, keeping, scored
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.graph import Correspondence
from pipeline.memory.settings import Memory
from pipeline.model.system import System
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

FLAT = "flat"
"""What the search without pruning is called among the axes."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What is kept."""

    entries: list[str]
    """Methods that attend to facts, or others with memory.backend=hikvp, as in conf/variants."""
    facts: int
    """Facts in the memory; 0 for all. At least as many as there are questions."""
    roots: list[int]
    """k_R, in turn."""
    inner: list[int]
    """k_I, in turn."""
    leaves: list[int]
    """k_L, in turn."""
    answered: int
    """Questions of each seed that are answered too, for exact match; 0 for none."""

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("pruning.entries must not be empty")
        if self.facts < 0 or self.answered < 0:
            raise ValueError("pruning.facts and pruning.answered must be at least 0")
        if min([*self.roots, *self.inner, *self.leaves], default=1) < 1:
            raise ValueError("pruning.roots, inner and leaves must be at least 1")

    def settings(self) -> list[tuple[str, int, Kept | None]]:
        """Return every axis with what is kept on it, after the search without pruning."""
        each = [(axis, number) for axis in vars(PAPER) for number in getattr(self, axis)]
        return [(FLAT, 0, None), *((axis, n, replace(PAPER, **{axis: n})) for axis, n in each)]


@stage
def pruning(
    pruning: Pruning,
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure every entry with every seed along every axis."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.kv, "questions")
    if trainer.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as for grounding: all facts are scored once
    variants = [Variant.read(entry, memory) for entry in pruning.entries]
    steps = pruning.settings()
    found: dict[tuple[str, str, int], list[Row]] = {}
    with tqdm(total=len(variants) * len(grounding.seeds) * len(steps), desc="pruning") as progress:
        for variant in variants:
            for seed in grounding.seeds:
                system = variant.open(lm, encoder, graph, paths, trainer.device, seed)
                facts = pruning.facts or len(system.memory)
                asked = probes(graph, questions, grounding, seed)
                for axis, number, row in _along(system, graph, asked, steps, pruning, grounding, seed):
                    found.setdefault((variant.name, axis, number), []).append(row)
                    progress.update()
    rows = [
        {"entry": entry, "axis": axis, "kept": kept} | _pooled(parts, grounding.bootstrap_samples)
        for (entry, axis, kept), parts in found.items()
    ]
    told = provenance(overridden("python -m pipeline.benchmark pruning"), grounding.seeds)
    told |= {
        "facts": facts,
        "others": asdict(PAPER),
        "figures": rows,
    }
    (out / "pruning.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _along(
    system: System,
    graph: Graph,
    asked: list[Probe],
    steps: list[tuple[str, int, Kept | None]],
    pruning: Pruning,
    grounding: Grounding,
    seed: int,
) -> Iterator[tuple[str, int, Row]]:
    """Yield each step with the places of the right facts and which answers are right.

    Raises:
        UserError: a fact that answers is not in the memory, or there are more questions than facts.
    """
    same = Correspondence(graph, system.memory)
    rows = [[same.row(fact) for fact in probe.facts] for probe in asked]
    gold = [[row for row in of_probe if row is not None] for of_probe in rows]
    if not all(gold):
        raise UserError("the memory lacks facts of the tables; run `dvc repro index`")
    every = np.flatnonzero(system.memory.alive).tolist()
    size = pruning.facts or len(every)
    if size < len(asked):
        raise UserError(f"pruning.facts: {size:,} facts can't hold those of {len(asked):,} questions")
    texts = [probe.texts[AS_ASKED] for probe in asked]
    answered = asked[: pruning.answered]
    with ExitStack() as held:
        if size < len(every):
            held.enter_context(system.memory.only(next(memories([g[0] for g in gold], every, size, seed))[1]))
        held.enter_context(system.attached())
        for axis, number, kept in steps:
            with keeping(system, kept) as tree:
                row: Row = {"places": ranked(system, texts, gold, grounding.batch_size), "em": []}
                for start in range(0, len(answered), grounding.batch_size):
                    part = answered[start : start + grounding.batch_size]
                    said = system.reply([probe.texts[AS_ASKED] for probe in part]).texts
                    row["em"] += [
                        exact_match(text, [graph.labels[t] for t in graph.triples[probe.facts, 2]])
                        for text, probe in zip(said, part, strict=True)
                    ]
                row |= {"scored": scored(tree), "roots": len(tree.roots.keys)} if tree else {"scored": 1.0}
            yield axis, number, row


def _pooled(parts: list[Row], samples: int) -> Row:
    """Return shares with intervals over the questions of all seeds."""
    at = np.concatenate([part["places"] for part in parts])
    right = np.concatenate([part["em"] for part in parts])
    table = np.stack([at == 1, (at > 0) & (at <= DEPTH)], axis=1).astype(float)
    first, five = (interval._asdict() for interval in bootstrap(table, samples, 0))
    em = bootstrap(right, samples, 0)[0]._asdict() if len(right) else None
    told = {"acc1": first, f"acc{DEPTH}": five, "em": em, "questions": len(at), "answered": len(right)}
    return told | {"scored": parts[0]["scored"], "roots": parts[0].get("roots")}


if __name__ == "__main__":
    pruning()
