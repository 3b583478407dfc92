"""Draws AtlasKV's figure 4 for our methods: `python -m pipeline.benchmark footprint`.

Memory and time of answering one batch of questions over the number of facts that a method holds. A memory
of each size is made of the facts that answer the questions and random others, and is opened anew for every
method, so that it takes what so many facts take. The figures go to footprint.json.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.distractors import add_distractors
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.footprint import Job, Machine, measured
from pipeline.evaluation.grounding import AS_ASKED, Grounding, Probe, memories, probes
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.subset import subset
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.graph import Correspondence
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What is measured, over what."""

    entries: list[str]
    """Files of conf/method, each perhaps with other values and an adapter folder, as in conf/variants; `dysk`
    can't be among them."""
    sizes: list[int]
    """Numbers of facts; what the data lacks is generated, as conf/grounding says."""
    seed: int
    """Of the adapters and of the facts that are drawn."""
    trained: bool
    """Whether adapters are loaded; without them answers mean nothing and take the same."""
    questions: int
    """Questions of the batch, from the split and the kinds of conf/grounding."""
    repeats: int
    """Batches that are timed."""

    def __post_init__(self) -> None:
        if not self.entries or not self.sizes:
            raise ValueError("footprint.entries and footprint.sizes must not be empty")
        if self.questions < 1 or self.repeats < 1:
            raise ValueError("footprint.questions and footprint.repeats must be at least 1")
        if min(self.sizes) < self.questions:
            raise ValueError(
                f"footprint.sizes must be at least footprint.questions, {self.questions}: each wants its fact"
            )


@stage
def footprint(
    footprint: Footprint,
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure every entry at every size."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    wanted = replace(grounding, questions=footprint.questions)
    asked = probes(graph, read_table(paths.kv, "questions"), wanted, footprint.seed)
    machine = Machine(lm, encoder, paths, trainer.device.type)
    # Opened on the CPU: the whole must not take a place on the device beside its part.
    whole = KnowledgeMemory.open(paths.index, replace(memory, layout="slot"), TextEncoder(encoder, "cpu"))
    variants = [Variant.read(entry, memory) for entry in footprint.entries]
    sizes = sorted(set(footprint.sizes))
    told = provenance(overridden("python -m pipeline.benchmark footprint"), [footprint.seed])
    told |= {"settings": asdict(footprint), "measured": _means(machine), "figures": []}
    # A large memory takes minutes: what was measured is written down with each row.
    with tqdm(total=len(sizes) * len(variants), desc="footprint", unit="memory") as progress:
        for size, folder in _memories(whole, graph, asked, sizes, footprint.seed, grounding, out):
            for variant in variants:
                texts = [probe.texts[AS_ASKED] for probe in asked]
                job = Job(variant, folder, texts, footprint.repeats, footprint.seed, footprint.trained)
                found = _summary(measured(job, machine), grounding)
                told["figures"].append({"entry": variant.name, "facts": size} | found)
                (out / "footprint.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
                progress.update()


def _memories(
    whole: KnowledgeMemory,
    graph: Graph,
    asked: list[Probe],
    sizes: list[int],
    seed: int,
    grounding: Grounding,
    out: Path,
) -> Iterator[tuple[int, Path]]:
    """Write a memory of each size, one after the other, to a folder that is gone afterwards.

    Raises:
        UserError: a fact that answers a question is not in the memory.
    """
    same, real = Correspondence(graph, whole), np.flatnonzero(whole.alive)
    right = [row for probe in asked if (row := same.row(probe.facts[0])) is not None]
    if len(right) < len(asked):
        raise UserError("the memory lacks facts of the tables; run `dvc repro index`")
    folder = out / "memory"
    for size in sizes:
        if size > len(whole):
            add_distractors(whole, real, size - len(whole), grounding.distractors, seed)
        every = np.flatnonzero(whole.alive).tolist()
        _, held = next(memories(right, every, size, seed))
        subset(whole, held).snapshot(folder)
        yield size, folder
        shutil.rmtree(folder)


def _summary(found: dict[str, Any], grounding: Grounding) -> dict[str, Any]:
    """Return a row with the mean seconds of a question in place of those of every batch."""
    if "seconds" in found:
        [interval] = bootstrap(found["seconds"], grounding.bootstrap_samples, 0)
        found["seconds"] = interval._asdict() | {"median": float(np.median(found["seconds"]))}
    return {"reason": None} | found


def _means(machine: Machine) -> str:
    if machine.device == "cuda":
        return "torch.cuda's allocated bytes beyond the language model's, in one process"
    return "resident bytes of a fresh process (VmRSS, peaks VmHWM) beyond those with the language model alone"


if __name__ == "__main__":
    footprint()
