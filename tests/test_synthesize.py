"""The stage as a whole, on a small graph."""

import json
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.kg.facts import Graph, read_table, write_table
from pipeline.mapping import Local
from pipeline.synthesize import synthesize
from pipeline.weights import LanguageModel
from tests.kg.graphs import paths, synthesis, write_graph
from tests.kg.services import ANSWER, Server

LM = LanguageModel(
    name="none", source="nowhere", sha256="", dtype="float32", prompt="{facts}{question}", stop="."
)


def run(folder: Path, *overrides: str) -> Path:
    out = folder / "kv"
    synthesize.run(synthesis(*overrides), LM, paths(folder), Local(kept=None), 0, out)  # type: ignore[attr-defined]
    return out


def test_the_stage_writes_its_tables_and_figures(tmp_path: Path) -> None:
    write_graph(tmp_path / "tables")
    out = run(tmp_path)
    graph = Graph.read(tmp_path / "tables", relations=out)
    assert graph.nouns == ["place of birth", "spouse", "occupation", "director", "capital", "genre"]
    figures = json.loads((out / "synthesize.json").read_text())
    questions = read_table(out, "questions").to_pylist()
    kv = read_table(out, "kv")
    assert kv.num_rows == sum(figures["rows"].values())
    asked = {
        name: number for name, number in figures["questions"].items() if name.split()[0] in splits(questions)
    }
    assert sum(asked.values()) == len(questions)
    assert figures["nouns"]["table"] == figures["nouns"]["asked"] == 12
    kg, narrow = figures["generators"]["kg2kv"], figures["generators"]["synthetic"]
    assert kg["diversity_percent"] == pytest.approx(100 * kg["attributes"] / graph.facts.num_rows, abs=1e-3)
    assert kg["llm_tokens_per_triple"] == 0
    assert narrow["diversity_percent"] == pytest.approx(100 * 3 / 60)
    for split in figures["leakage"].values():
        assert split["answer_in_training"] == split["slot_in_training"] == 0


def splits(questions: list[dict[str, str]]) -> set[str]:
    return {row["split"] for row in questions}


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    write_graph(tmp_path / "tables")
    first = {file.name: file.read_bytes() for file in run(tmp_path).iterdir()}
    second = {file.name: file.read_bytes() for file in run(tmp_path).iterdir()}
    assert first.keys() == {
        "relations.parquet",
        "kv.parquet",
        "synthetic.parquet",
        "questions.parquet",
        "synthesize.json",
    }
    assert first == second


def test_the_synthetic_generator_replaces_the_rows_only(tmp_path: Path) -> None:
    write_graph(tmp_path / "tables")
    questions = (run(tmp_path) / "questions.parquet").read_bytes()
    out = run(tmp_path, "generator=synthetic")
    assert set(read_table(out, "kv")["side"].to_pylist()) == {"synthetic"}
    assert (out / "questions.parquet").read_bytes() == questions


def test_nouns_from_an_endpoint_are_checked_and_paid_for(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "tables")
    with Server([(200, ANSWER)]) as server:
        writer = ["nouns.writer=endpoint", "nouns.ask=llm_only", f"nouns.cache={tmp_path}/nouns.tsv"]
        out = run(tmp_path, *writer, f"endpoint.base_url={server.endpoint.base_url}")
    assert len(server.seen) == 12
    figures = json.loads((out / "synthesize.json").read_text())
    assert figures["nouns"]["rejected"] == {"head is tail": 6}
    assert (figures["nouns"]["accepted"], figures["nouns"]["fallback"]) == (6, 6)
    kg = figures["generators"]["kg2kv"]
    assert kg["llm_tokens"] == 12 * 42
    assert kg["llm_tokens_per_triple"] == pytest.approx(12 * 42 / graph.facts.num_rows, abs=1e-4)
    assert set(read_table(out, "relations")["noun_tail"].to_pylist()) == {"brewer"}


def test_an_empty_graph_is_an_error(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "tables")
    empty = {name: [] for name in graph.facts.column_names}
    write_table(tmp_path / "tables", "facts", empty)
    with pytest.raises(UserError, match="no facts"):
        run(tmp_path)


def test_a_local_model_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    write_graph(tmp_path / "tables")
    cache = f"nouns.cache={tmp_path}/nouns.tsv"
    with pytest.raises(UserError, match=r"none: tried the folder nowhere"):
        run(tmp_path, "nouns.writer=local", "nouns.ask=llm_only", cache)
