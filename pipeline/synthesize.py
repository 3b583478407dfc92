"""Stage `synthesize`: nouns of relations, KG2KV rows and every question, from the tables of `ingest`."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from pipeline.config import Paths, stage
from pipeline.kg.facts import Graph, read_table, write_table
from pipeline.kg.leakage import leakage
from pipeline.kg.naming import Nouns, NounWriter, Spent, name_relations
from pipeline.kg.questions import Asker
from pipeline.kg.slots import Slots
from pipeline.kg.synthesis import Rows, diversity, kg2kv, mirrored, usable
from pipeline.kg.synthetic import ATTRIBUTES, Synthetic, synthetic
from pipeline.kg.wording import Limits, Wording
from pipeline.kg.writers import Endpoint, LocalWriter
from pipeline.mapping import Local, Ray
from pipeline.weights import LanguageModel, load_language_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How facts become rows and questions."""

    generator: str
    """Which rows `kv` holds: kg2kv (facts of the graph) or synthetic (three attributes, after KBLaM)."""
    wording: Wording
    """Templates of questions."""
    rows: Rows
    """Which KG2KV rows are made."""
    nouns: Nouns
    """Where the nouns of relations come from."""
    endpoint: Endpoint
    """The service that writes nouns where `nouns.writer` is endpoint."""
    questions: Limits
    """How many questions each split holds."""
    synthetic: Synthetic
    """Names and values of the synthetic rows."""

    def __post_init__(self) -> None:
        if self.generator not in ("kg2kv", "synthetic"):
            raise ValueError(f"synthesis.generator must be kg2kv or synthetic, not {self.generator!r}")


@stage
def synthesize(
    synthesis: Synthesis, lm: LanguageModel, paths: Paths, blocks: Local | Ray, seed: int, out: Path
) -> None:
    """Write relations (with nouns), kv, synthetic, questions and synthesize.json to `out`."""
    graph = Graph.read(paths.tables)
    relations = list(zip(graph.relations["key"].to_pylist(), graph.relation_labels, strict=True))
    model = synthesis.endpoint.model if synthesis.nouns.writer == "endpoint" else lm.name
    nouns, spent = name_relations(
        tqdm(relations, "nouns", unit="relation", disable=None),
        mirrored(graph).tolist(),
        synthesis.nouns,
        model,
        lambda: _writer(synthesis, lm),
    )
    columns = {name: graph.relations[name] for name in ("id", "key", "label")}
    write_table(out, "relations", columns | {"noun_tail": nouns[0], "noun_head": nouns[1]})

    with blocks.mapping() as mapped:
        facts = kg2kv(graph, nouns, synthesis.rows, synthesis.wording.train, seed, mapped)
    invented = synthetic(graph, synthesis.synthetic, synthesis.wording.train, seed)
    kv = facts if synthesis.generator == "kg2kv" else invented
    write_table(out, "kv", {name: kv[name] for name in kv.column_names})
    write_table(out, "synthetic", {name: invented[name] for name in invented.column_names})

    asker = Asker(
        Slots(graph, nouns[0]), usable(graph, synthesis.rows), synthesis.wording, synthesis.questions, seed
    )
    questions, counts = asker.ask(read_table(paths.tables, "questions"))
    write_table(out, "questions", questions)

    figures = {
        "generator": synthesis.generator,
        "facts": graph.facts.num_rows,
        "rows": _sides(kv),
        "questions": counts,
        "nouns": vars(spent)
        | {"version": synthesis.nouns.version, "model": model, "ask": synthesis.nouns.ask},
        "generators": _compare(graph, nouns, facts, invented, spent),
        "leakage": leakage(graph, read_table(out, "questions")),
    }
    (out / "synthesize.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    log.info("%d rows, %s", kv.num_rows, counts)


def _writer(synthesis: Synthesis, lm: LanguageModel) -> NounWriter:
    if synthesis.nouns.writer == "endpoint":
        return synthesis.endpoint
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LocalWriter(*load_language_model(lm, device), synthesis.endpoint.answer_tokens)


def _sides(rows: pa.Table) -> dict[str, int]:
    sides, counts = np.unique(rows["side"].to_numpy(zero_copy_only=False), return_counts=True)
    return {str(side): int(count) for side, count in zip(sides, counts, strict=True)}


def _compare(
    graph: Graph, nouns: tuple[list[str], list[str]], facts: pa.Table, invented: pa.Table, spent: Spent
) -> dict[str, dict[str, Any]]:
    """Return, for both generators, AtlasKV's diversity (attributes per triple) and tokens per triple."""
    attributes, triples = diversity(graph, nouns, facts)
    sizes = {
        "kg2kv": (attributes, triples, spent.tokens),
        "synthetic": (len(ATTRIBUTES), invented.num_rows, 0),
    }
    return {
        name: {
            "attributes": asked,
            "triples": made,
            "diversity_percent": round(100 * asked / max(made, 1), 4),
            "llm_tokens": tokens,
            "llm_tokens_per_triple": round(tokens / max(made, 1), 4),
        }
        for name, (asked, made, tokens) in sizes.items()
    }


if __name__ == "__main__":
    synthesize()
