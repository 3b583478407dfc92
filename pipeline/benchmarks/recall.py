"""Measures what each way of searching vectors finds, and how fast: `python -m pipeline.benchmark recall`.

Questions of conf/grounding are asked of the memory of a trained method, as they stand in the data; their
queries are computed once. Each backend of conf/recall then searches memories of growing size, the data and
generated facts beside them. The shares of questions with a right fact among the first ones, and milliseconds,
go to recall.json, and over each other to recall.png. Beside the search's order stands that of the method's
fine score, which puts the same facts in another order by letters and early states.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from pipeline.benchmarks.processes import spread
from pipeline.config import Paths, UserError, section, stage
from pipeline.evaluation.distractors import add_distractors
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.grounding import AS_ASKED, Grounding, Probe, probes
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.facts import Query
from pipeline.memory.graph import Correspondence
from pipeline.memory.settings import Memory
from pipeline.model.ours import OurSystem
from pipeline.model.settings import Ours
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What searches, and what is looked at."""

    method: str
    """A file of conf/method that finds facts by queries of its own, perhaps with an adapter folder."""
    backends: list[str]
    """Values of memory.backend, each perhaps with others of conf/memory, as in `codes:rescored=4`."""
    generated: list[int]
    """Facts that are generated beside those of the data, in turn; 0 for none."""
    depths: list[int]
    """Facts among which a right one is looked for."""
    timed: int
    """Questions that are asked one at a time, to be timed."""

    def __post_init__(self) -> None:
        for name in ("backends", "generated", "depths"):
            if not getattr(self, name):
                raise ValueError(f"recall.{name} must not be empty")
        if min(self.generated) < 0 or min(*self.depths, self.timed) < 1:
            raise ValueError("recall: generated must be at least 0, depths and timed at least 1")


@stage
def recall(
    recall: Recall,
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure each backend at each size with each seed."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.kv, "questions")
    backends = {text: searching(text, memory) for text in recall.backends}
    variant = Variant.read(recall.method, memory)
    if not isinstance(variant.method, Ours):
        raise UserError(f"recall.method: {recall.method} has no queries of its own; choose ours")
    rows: list[Row] = []
    told = provenance(overridden("python -m pipeline.benchmark recall"), grounding.seeds)
    told["settings"] = {"recall": asdict(recall), "memory": asdict(memory), "questions": grounding.questions}
    with tqdm(total=len(grounding.seeds) * len(recall.generated) * len(backends), unit="search") as progress:
        for seed in grounding.seeds:
            system = variant.open(lm, encoder, graph, paths, trainer.device, seed)
            assert isinstance(system, OurSystem)
            asked = probes(graph, questions, grounding, seed)
            query, gold = queried(system, graph, asked, grounding.batch_size)
            real = np.flatnonzero(system.memory.alive)
            for count in sorted(recall.generated):
                missing = count - (len(system.memory) - len(real))
                if missing > 0:
                    add_distractors(system.memory, real, missing, grounding.distractors, seed)
                for name, settings in backends.items():
                    with system.memory.arrangement.using(settings, None):
                        found = searched(system, asked, query, gold, recall, grounding.batch_size)
                    facts = {"seed": seed, "facts": len(system.memory), "generated": count}
                    rows.append({"backend": name} | facts | found)
                    # An index of millions takes minutes: what was measured is written down with each row.
                    figures = summed(rows, recall, grounding.bootstrap_samples)
                    content = json.dumps(told | {"figures": figures}, indent=1)
                    (out / "recall.json").write_text(content + "\n", encoding="utf-8")
                    progress.update()
    draw(figures, max(recall.depths), out / "recall.png")


def searching(text: str, memory: Memory) -> Memory:
    """Return the settings of an entry of `recall.backends`.

    Raises:
        ConfigError: a name or a value is none of conf/memory.
    """
    name, _, changes = text.partition(":")
    given = OmegaConf.from_dotlist([f"backend={name}", *filter(None, changes.split(","))])
    merged = OmegaConf.merge(asdict(memory), given)
    found: Memory = section(Memory, merged, "memory")
    return found


@torch.no_grad()
def queried(
    system: OurSystem, graph: Graph, asked: Sequence[Probe], batch: int
) -> tuple[Query, list[set[int]]]:
    """Return what the questions ask the memory for, and the facts of it that answer each."""
    same = Correspondence(graph, system.memory)
    gold = [{row for fact in probe.facts if (row := same.row(fact)) is not None} for probe in asked]
    if not all(gold):
        raise UserError("the memory lacks facts of the tables; run `dvc repro index`")
    texts = [probe.texts[AS_ASKED] for probe in asked]
    with system.attached():
        parts = [system.query(texts[start : start + batch]) for start in range(0, len(texts), batch)]
    return Query.joined(parts), gold


def searched(
    system: OurSystem,
    asked: Sequence[Probe],
    query: Query,
    gold: Sequence[set[int]],
    settings: Recall,
    batch: int,
) -> Row:
    """Return the place of the first right fact of each question, 0 for none, and what the search took."""
    start = time.perf_counter()
    scoring = system.memory.arrangement.scoring
    scoring.search(query.rows(0, 1), 1)  # makes what searches
    build = time.perf_counter() - start
    depth, places, took = max(settings.depths), [], []
    parts = []
    start = time.perf_counter()
    for first in range(0, len(gold), batch):
        found = scoring.search(query.rows(first, first + batch), depth)
        parts.append((found.facts, found.via))
        places += _places(found.facts, gold[first : first + batch])
    seconds = time.perf_counter() - start
    fine: list[int] = []
    start = time.perf_counter()
    for first, (facts, via) in zip(range(0, len(gold), batch), parts, strict=True):
        texts = [probe.texts[AS_ASKED] for probe in asked[first : first + batch]]
        with torch.no_grad(), system.attached():
            scores = system.scored(texts, query.rows(first, first + batch), facts, via).scores
        order = scores.argsort(dim=-1, descending=True, stable=True)
        fine += _places(facts.gather(1, order), gold[first : first + batch])
    finer = time.perf_counter() - start
    for place in range(min(settings.timed, len(gold))):
        begin = time.perf_counter()
        scoring.search(query.rows(place, place + 1), depth).facts.tolist()
        took.append((time.perf_counter() - begin) * 1000)
    rate = len(gold) / seconds
    told = {"places": places, "fine": fine, "build": round(build, 3), "one": spread(took)}
    return told | {"a second": round(rate, 1), "ms finer": round(1000 * finer / len(gold), 2)}


def _places(found: Tensor, gold: Sequence[set[int]]) -> list[int]:
    """Return the place from 1 of the first right fact of each row, 0 for none."""
    return [
        next((place for place, fact in enumerate(facts, 1) if fact in right), 0)
        for facts, right in zip(found.tolist(), gold, strict=True)
    ]


def summed(rows: Sequence[Row], settings: Recall, samples: int) -> list[Row]:
    """Return one row a backend and size, over all seeds, with intervals."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["backend"], row["generated"]), []).append(row)
    told = []
    for (backend, generated), found in groups.items():
        places = np.concatenate([row["places"] for row in found])
        fine = np.concatenate([row["fine"] for row in found])
        told.append(
            {
                "backend": backend,
                "generated": generated,
                "facts": [row["facts"] for row in found],
                "questions": len(places),
                "recall": shares(places, settings.depths, samples),
                "recall, by the fine score": shares(fine, settings.depths, samples),
                "seconds until the first answer": [row["build"] for row in found],
                "one question": [row["one"] for row in found],
                "questions a second": [row["a second"] for row in found],
                "ms a question for the fine score": [row["ms finer"] for row in found],
            }
        )
    return told


def shares(places: NDArray[np.int64], depths: Sequence[int], samples: int) -> Row:
    """Return the share of `places` within each depth."""
    table = np.stack([(places > 0) & (places <= depth) for depth in depths], axis=1)
    intervals = bootstrap(table.astype(float), samples, 0)
    return {str(depth): interval._asdict() for depth, interval in zip(depths, intervals, strict=True)}


def draw(figures: Sequence[Row], depth: int, file: Path) -> None:
    """Draw recall over milliseconds, a line a size."""
    drawn, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for generated in sorted({row["generated"] for row in figures}):
        rows = [row for row in figures if row["generated"] == generated]
        x = [np.mean([one["p50 ms"] for one in row["one question"]]) for row in rows]
        y = [100 * row["recall"][str(depth)]["mean"] for row in rows]
        axes.plot(x, y, "o", label=f"{rows[0]['facts'][0]:,} facts")
        for left, height, row in zip(x, y, rows, strict=True):
            axes.annotate(
                row["backend"], (left, height), textcoords="offset points", xytext=(4, 4), fontsize=7
            )
    axes.set(xscale="log", xlabel="milliseconds a question, median", ylabel=f"recall at {depth}, percent")
    axes.legend()
    drawn.savefig(file, dpi=150)
    plt.close(drawn)


if __name__ == "__main__":
    recall()
