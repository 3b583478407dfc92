"""Whether a method answers by what held at the time that is asked about: `python -m pipeline.benchmark asof`.

The facts of dated slots are written with their periods, and the same questions are asked of three memories:
as of the year (`memory.as_of`), of what holds today, and of one that knows no dates. To asof.json go EM by
the facts of that year, and how often a value of another time is answered, with intervals and paired
differences.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.config import Paths, stage
from pipeline.evaluation.asof import AsOf, Dated, dated, periods
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap, paired
from pipeline.evaluation.metrics import exact_match
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.system import System
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

WAYS = ("as of the year", "today", "without dates")


@stage
def asof(
    asof: AsOf,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Ask every entry of the three memories."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    told = provenance(overridden("python -m pipeline.benchmark asof"), asof.seeds)
    told["settings"] = {"asof": asdict(asof), "memory": asdict(memory)}
    figures: dict[str, Any] = {}
    for entry in asof.entries:
        variant = Variant.read(entry, memory)
        rows: list[dict[str, list[tuple[float, float]]]] = []
        for seed in asof.seeds:
            questions = dated(graph, asof, seed)
            system = variant.open(lm, encoder, graph, paths, trainer.device, seed)
            rows.append(answered(system, graph, questions, asof.batch_size, entry))
        figures[entry] = summed(rows, asof.bootstrap_samples)
    told["figures"] = figures
    (out / "asof.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def answered(
    system: System, graph: Graph, questions: Sequence[Dated], size: int, name: str
) -> dict[str, list[tuple[float, float]]]:
    """Return, for each of `WAYS`, EM of each question and whether a value of another time was said.

    The memory of `system` has the facts without dates to begin with.
    """
    plain = system.memory
    found = {"without dates": _said(system, plain, questions, size, name)}
    facts = sorted({fact for question in questions for fact in question.facts})
    plain.upsert(periods(graph, facts))
    found["today"] = _said(system, plain, questions, size, name)
    by_year: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        by_year.setdefault(question.year, []).append(place)
    then: list[tuple[float, float]] = [(0.0, 0.0)] * len(questions)
    for year, places in tqdm(sorted(by_year.items()), desc=f"{name}, as of", unit="year"):
        asked = [questions[place] for place in places]
        for place, figure in zip(places, _said(system, plain.as_of(year), asked, size, ""), strict=True):
            then[place] = figure
    system.memory = plain
    return found | {"as of the year": then}


def _said(
    system: System, memory: KnowledgeMemory, questions: Sequence[Dated], size: int, name: str
) -> list[tuple[float, float]]:
    system.memory = memory
    found: list[tuple[float, float]] = []
    starts = range(0, len(questions), size)
    with system.attached():
        for start in tqdm(starts, desc=name, unit="batch", disable=not name):
            asked = questions[start : start + size]
            reply = system.reply([question.text for question in asked])
            for question, text, refused in zip(asked, reply.texts, reply.refused, strict=True):
                said = "" if refused else text
                found.append((exact_match(said, question.answers), exact_match(said, question.others)))
    return found


def summed(rows: Sequence[dict[str, list[tuple[float, float]]]], samples: int) -> dict[str, Any]:
    """Return the figures of each of `WAYS` over all seeds, and what the dates are worth."""
    tables = {way: np.concatenate([np.array(row[way]) for row in rows]) for way in WAYS}
    told: dict[str, Any] = {}
    for way, table in tables.items():
        right, other = bootstrap(table, samples, 0)
        told[way] = {"em": right._asdict(), "of another time": other._asdict(), "n": len(table)}
    for way in WAYS[1:]:
        gain = paired(tables[WAYS[0]][:, 0], tables[way][:, 0], samples, 0)
        told[way]["em that the year adds"] = gain.difference._asdict() | {"p": gain.p}
    return told


if __name__ == "__main__":
    asof()
