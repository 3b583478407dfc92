"""Stage `index`: base vectors of the entities, relations and slots of the base snapshot."""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline.config import Paths, stage
from pipeline.kg.facts import Graph
from pipeline.mapping import Local, Ray
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.graph import facts_of_graph, live_ids
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder

log = logging.getLogger(__name__)


@stage
def index(encoder: Encoder, memory: Memory, paths: Paths, blocks: Local | Ray, out: Path) -> None:
    """Encode every name once and write a memory that both layouts can open."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    began = time.perf_counter()
    with blocks.mapping() as mapped:
        texts = TextEncoder(encoder, "cuda" if torch.cuda.is_available() else "cpu", mapped)
        filled = KnowledgeMemory(memory, texts)

        def bar(batches: Iterable[list[int]]) -> Iterable[list[int]]:
            shown: Iterable[list[int]] = tqdm(batches, desc="index", unit="batch")
            return shown

        receipt = filled.upsert(facts_of_graph(graph, live_ids(graph, 0)), progress=bar)
        filled.add_slots(progress=bar)
        filled.snapshot(out)
    figures = {
        "encoder": encoder.name,
        "dimension": texts.dimension,
        "facts": len(receipt.facts),
        "entities": len(filled.entities),
        "relations": len(filled.relations),
        "slots": len(filled.slots),
    }
    (out / "index.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    log.info("indexed %s in %.0f s", figures, time.perf_counter() - began)


if __name__ == "__main__":
    index()
