import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.ingest import ingest
from pipeline.kg.facts import SCHEMAS, Graph, read_table
from pipeline.kg.sources import Entity, Extract, Triple
from pipeline.kg.splits import Splits
from pipeline.mapping import Local
from tests.worlds import tiny_world

SPLITS = Splits(valid=0.2, test=0.3, unseen_relations=0.1)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The smallest source: it leaves the building to the stage."""

    facts: tuple[Triple, ...]

    def extract(self) -> Extract:
        return Extract({"a": Entity("A"), "b": Entity("B")}, {"r": "is"}, [("only", self.facts)])


def test_the_stage_writes_every_table_and_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_CACHE", str(tmp_path))
    ingest.run(tiny_world(tmp_path / "packages"), SPLITS, Local(kept=None), 0, tmp_path / "tables")
    for name in SCHEMAS.keys() - {"kv", "synthetic"}:
        assert read_table(tmp_path / "tables", name).schema == SCHEMAS[name]
    graph = Graph.read(tmp_path / "tables")
    counts = json.loads((tmp_path / "tables" / "ingest.json").read_text(encoding="utf-8"))
    assert counts["facts"] == graph.facts.num_rows == sum(fold["facts"] for fold in counts["folds"].values())
    assert counts["snapshots"][-1]["facts"] == graph.live(graph.last_snapshot).sum()
    assert counts["source"] == {"facts with an unknown country code left out": 2}


def test_the_stage_builds_what_a_source_only_extracts(tmp_path: Path) -> None:
    ingest.run(Pairs(facts=(Triple("a", "r", "b"),)), SPLITS, Local(kept=None), 0, tmp_path)
    assert Graph.read(tmp_path).triples.tolist() == [[0, 0, 1]]
    with pytest.raises(UserError, match="holds no facts"):
        ingest.run(Pairs(facts=()), SPLITS, Local(kept=None), 0, tmp_path)
