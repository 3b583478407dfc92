"""Holds variants of methods against each other: `python -m pipeline.benchmark variants`.

Every entry of conf/variants answers the questions of conf/evaluate, with the adapters at `paths.adapters`. To
variants.json go EM, facts read, seconds a question and refusals, and how each entry differs from the first,
question by question; the answers themselves to a folder each.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pipeline.config import Paths, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap, paired
from pipeline.evaluation.runs import Evaluate, run
from pipeline.evaluation.summary import Bootstrap, per_question, refusal_auroc, summarise
from pipeline.evaluation.systems import SystemAnswerer
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.settings import Memory
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What is compared."""

    entries: list[str]
    """Files of conf/method, each perhaps with other values, the memory's too, and an adapter folder of its
    own, as in `ours:mass=0.9,memory.k=3@FOLDER`; the first is what the others are held against."""
    seeds: list[int]
    """Of the adapters; SEED in paths.adapters becomes each of them."""

    def __post_init__(self) -> None:
        if not self.entries or not self.seeds:
            raise ValueError("variants.entries and variants.seeds must not be empty")
        if len(set(self.entries)) < len(self.entries):
            raise ValueError("variants.entries must differ from each other")


@stage
def variants(
    variants: Variants,
    evaluate: Evaluate,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Ask every entry with every seed's adapter, and write what they are worth and how they differ."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.kv, "questions")
    chosen = [Variant.read(entry, memory) for entry in variants.entries]
    how = Bootstrap(evaluate.bootstrap_samples, seed)
    tables: dict[str, pd.DataFrame] = {}
    for place, variant in enumerate(chosen):
        parts = []
        for number in variants.seeds:
            folder = out / f"{place}-{number}"
            folder.mkdir()
            system = variant.open(lm, encoder, graph, paths, trainer.device, number)
            run(SystemAnswerer(variant.name, system, graph), graph, questions, evaluate, seed, folder)
            parts.append(pq.read_table(folder / "answers.parquet").to_pandas())
        tables[variants.entries[place]] = pd.concat(parts, ignore_index=True)
    first = variants.entries[0]
    figures = {
        entry: _figures(rows, tables[first] if entry != first else None, evaluate, how)
        for entry, rows in tables.items()
    }
    told = provenance(overridden("python -m pipeline.benchmark variants"), variants.seeds)
    told |= {"facts": int(graph.live(0).sum()), "splits": evaluate.splits, "kinds": evaluate.kinds}
    (out / "variants.json").write_text(
        json.dumps(told | {"figures": figures}, indent=1) + "\n", encoding="utf-8"
    )


def _figures(
    rows: pd.DataFrame, first: pd.DataFrame | None, evaluate: Evaluate, how: Bootstrap
) -> dict[str, Any]:
    """Return the figures of one variant, by split, and its difference from the first variant."""
    told: dict[str, Any] = {
        "auroc": refusal_auroc(rows),
        "questions": rows["question"].nunique(),
        "splits": {},
    }
    rows = rows.assign(read_facts=rows["facts"].map(len))
    for split, found in summarise(rows, evaluate.recall_at, how).items():
        mine = rows[rows["split"] == split]
        values = per_question(mine, ["read_facts", "seconds"]).to_numpy(dtype=float)
        names = ("facts_read", "seconds")
        found |= {
            name: interval._asdict()
            for name, interval in zip(names, bootstrap(values, how.samples, how.seed), strict=True)
        }
        if first is not None:
            other = first[first["split"] == split]
            pair = [per_question(table, ["em"])["em"].to_numpy(dtype=float) for table in (mine, other)]
            told_pair = paired(pair[0], pair[1], how.samples, how.seed)
            found["em_beyond_first"] = told_pair.difference._asdict() | {"p": told_pair.p}
        told["splits"][split] = found
    return told


if __name__ == "__main__":
    variants()
