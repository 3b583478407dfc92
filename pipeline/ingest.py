"""Stage `ingest`: the facts of a source become numbered tables with folds and snapshots."""

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipeline.blocks import Mapped, in_turn
from pipeline.config import stage
from pipeline.kg.build import build
from pipeline.kg.sources.codex import Codex
from pipeline.kg.sources.questions.entityquestions import EntityQuestions
from pipeline.kg.sources.questions.kamel import Kamel
from pipeline.kg.sources.questions.pat import Pat
from pipeline.kg.sources.questions.templama import TempLama
from pipeline.kg.sources.temporalwiki import TemporalWiki
from pipeline.kg.sources.triples import Triples
from pipeline.kg.sources.wikidata5m import Wikidata5M
from pipeline.kg.sources.wikidata_slice import WikidataSlice
from pipeline.kg.sources.world import World
from pipeline.kg.splits import Splits
from pipeline.mapping import Local, Ray

Data = (
    World
    | TemporalWiki
    | WikidataSlice
    | Codex
    | Wikidata5M
    | EntityQuestions
    | Kamel
    | Pat
    | TempLama
    | Triples
)
"""Every source; one that is added here is chosen by the key `kind` of its file in conf/data."""


@runtime_checkable
class Writer(Protocol):
    """A source that writes the tables itself: it samples by fold, or is too large to be held in memory."""

    def write(self, splits: Splits, seed: int, out: Path, mapped: Mapped = in_turn) -> dict[str, Any]:
        """Write the tables to `out` and return the counts, as `pipeline.kg.build.build` does."""
        ...


@stage
def ingest(data: Data, splits: Splits, blocks: Local | Ray, seed: int, out: Path) -> None:
    """Write entities, relations, facts, changes, questions (Parquet) and ingest.json (counts) to `out`."""
    if isinstance(data, Writer):
        with blocks.mapping() as mapped:
            counts = data.write(splits, seed, out, mapped)
    else:
        counts = build(data.extract(), splits, seed, out)
    text = json.dumps(counts, indent=1, ensure_ascii=False)
    (out / "ingest.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    ingest()
