"""Kinds of bad input, each with the words of its error: they name the thing and say what to do."""

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline.ask import main as ask
from pipeline.config import CONF, ConfigError, UserError, choices, section
from pipeline.evaluation.systems import open_system
from pipeline.evaluation.timeline import Timeline, planned
from pipeline.index import index
from pipeline.ingest import ingest
from pipeline.kg.build import build
from pipeline.kg.facts import read_table
from pipeline.kg.nouns import read_table as noun_table
from pipeline.kg.sources.codex import Codex
from pipeline.kg.sources.temporalwiki import TemporalWiki
from pipeline.kg.sources.triples import Triples
from pipeline.mapping import Local
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact
from pipeline.memory.store import KnowledgeMemory
from pipeline.preset import main as preset
from pipeline.report import report
from pipeline.serve.session import Session
from pipeline.trainer import Trainer
from pipeline.weights import fetch, load_language_model
from tests.kg.graphs import paths
from tests.model.tiny_systems import dysk, rag
from tests.serve.small import Trained, trained_folder
from tests.tiny import SPLITS, SmallWorld, memory_settings, small_extract, tiny_language_model


@dataclass(frozen=True)
class Place:
    """What a case may use and damage."""

    folder: Path
    world: SmallWorld
    """A copy in `folder`."""
    trained: Trained
    """The adapter is a copy, and the memory that of `world`."""
    lm: Any
    encoder: Any
    monkeypatch: pytest.MonkeyPatch

    def command(self, entry: Callable[[], None], *words: str) -> None:
        """Call an entry point as its command line does."""
        self.monkeypatch.setattr(sys, "argv", ["command", *words])
        entry()

    def ask(self, *words: str, memory: bool = True) -> None:
        where = ["--memory", str(self.trained.memory)] if memory else []
        self.command(ask, *words, "--adapter", str(self.trained.adapter), *where)

    def written(self, name: str, content: str | bytes) -> Path:
        """Write a file below the folder, which is the data root too."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def facts(self, content: str | bytes, name: str = "mine.tsv") -> None:
        """Ingest a file of facts."""
        self.written(name, content)
        ingest.run(Triples(folder=name, snapshots="none"), SPLITS, Local(kept=None), 0, self.folder / "out")

    def opened(self, method: Any, **memory: Any) -> Any:
        """Open the system of a method on the world."""
        settings = memory_settings(**memory)
        graph, paths = self.world.graph, self.world.paths
        return open_system(method, settings, self.lm, self.encoder, graph, paths, "cpu")


def index_with(*words: str) -> Callable[[Place], None]:
    return lambda place: place.command(index, *words, f"hydra.run.dir={place.folder / 'out'}")


def asked(*words: str) -> Callable[[Place], None]:
    return lambda place: place.ask("Who is it?", *words)


def params(text: str) -> Callable[[Place], Any]:
    return lambda place: choices(place.written("params.yaml", text))


def strange_entity(place: Place) -> None:
    extract = small_extract()
    entities = {key: entity for key, entity in extract.entities.items() if key != "C0"}
    build(replace(extract, entities=entities), SPLITS, 0, place.folder / "out")


def no_facts(place: Place) -> None:
    build(replace(small_extract(), snapshots=[("base", [])]), SPLITS, 0, place.folder / "out")


def damaged(name: str, content: str | bytes = "no longer what it was") -> Callable[[Place], None]:
    def call(place: Place) -> None:
        folder = {"index": place.world.paths.index, "tables": place.world.paths.tables}[name.split("/")[0]]
        (folder / name.split("/")[1]).write_bytes(content.encode() if isinstance(content, str) else content)
        place.opened(rag())

    return call


def missing_table(place: Place) -> None:
    (place.world.paths.tables / "facts.parquet").unlink()
    index.run(place.encoder, memory_settings(), place.world.paths, Local(kept=None), place.folder / "out")


def no_slots(place: Place) -> None:
    memory = KnowledgeMemory(memory_settings(), TextEncoder(place.encoder, "cpu"))
    memory.upsert([Fact("A", "b", "C", "A", "b", "C")])
    memory.snapshot(place.world.paths.index)
    place.opened(rag())


def missing_rotate(place: Place) -> None:
    place.world.paths.rotate.rename(place.folder / "elsewhere")
    place.opened(dysk())


def without_adapter(place: Place) -> None:
    (place.trained.adapter / "adapter.safetensors").unlink()
    place.ask("Who is it?")


def damaged_adapter(place: Place) -> None:
    (place.trained.adapter / "adapter.safetensors").write_bytes(b"0" * 64)
    place.ask("Who is it?")


def adapter_of_another_size(place: Place) -> None:
    file = place.trained.adapter / "adapter.json"
    values = json.loads(file.read_text())
    values["method"]["head_width"] += 1
    file.write_text(json.dumps(values))
    place.ask("Who is it?")


def two_of_one_name(place: Place) -> None:
    facts = "Lyon (France)\tcountry\tFrance\nLYON (france)\tcountry\tUS\n"
    facts = str(place.written("two.tsv", facts))
    place.ask("Where?", "--facts", facts, "--upsert", "lyon (France) | country | Peru", memory=False)


def everything_deleted(place: Place) -> None:
    session = Session.open(place.trained.adapter, facts=place.written("one.tsv", "A\tb\tC\n"))
    session.delete("A | b | C")
    session.ask("Who is it?")


def unknown_stop(place: Place) -> None:
    load_language_model(tiny_language_model(place.folder / "lm", stop="<nowhere>"), "cpu")


def wrong_wheel(place: Place) -> None:
    place.monkeypatch.setenv("KG_CACHE", str(place.folder / "cache"))
    place.written("cache/packages/thing-1-py3-none-any.whl", "other bytes")
    fetch("thing", "pypi:thing==1/thing/model", "0" * 64)


def no_evaluation(place: Place) -> None:
    report.run(place.world.paths, 0, place.folder / "out")


def damaged_metrics(place: Place) -> None:
    file = place.world.paths.evaluations / "ours" / "metrics.json"
    place.written(str(file.relative_to(place.folder)), "{")
    report.run(place.world.paths, 0, place.folder / "out")


CASES: dict[str, tuple[Callable[[Place], Any], str]] = {
    # configuration
    "params.yaml chooses a file that is not there": (
        params("data: nowhere\n"),
        r"no 'nowhere' in conf/data; there is .*world",
    ),
    "params.yaml names a group that is not there": (
        params("dta: world\n"),
        r"no group 'dta'; the groups are ablation, asof, blocks, campaign, data, ",
    ),
    "params.yaml holds something else": (
        params("- world\n"),
        r"must hold `group: choice` lines, found a list",
    ),
    "an unknown key": (
        index_with("+memory.size=3"),
        r"conf/memory: unknown key memory.size; known keys are .*N, k",
    ),
    "a key out of its range": (index_with("memory.k=0"), r"conf/memory: memory.k must be at least 1, not 0"),
    "two keys that contradict each other": (
        index_with("memory.k=300"),
        r"memory.k \(300\) must not exceed memory.N \(200\)",
    ),
    "a word where a number belongs": (index_with("memory.N=many"), r"conf/memory: memory.N: Value 'many'"),
    "an unknown layout": (index_with("memory.layout=tree"), r"must be one of factored, slot, not 'tree'"),
    "an unknown kind of source": (
        lambda place: place.command(ingest, "data.kind=page", f"hydra.run.dir={place.folder / 'out'}"),
        r"conf/data: data.kind is 'page'; it must be one of world, .*triples",
    ),
    "an unknown preset": (
        lambda place: place.command(preset, "labtop"),
        r"no preset 'labtop'; there is .*laptop",
    ),
    "a GPU where there is none": (
        lambda place: Trainer(accelerator="gpu", devices=1, hosts=1, strategy="auto", restarts=0).device,
        r"trainer.accelerator is gpu, but torch sees none: choose trainer=cpu",
    ),
    # data
    "no file of facts": (
        lambda place: Triples(folder="nowhere", snapshots="none").extract(),
        r"nowhere: not found; put a file",
    ),
    "an empty file": (lambda place: place.facts(""), r"mine.tsv: empty; write it again"),
    "a line that lacks a column": (
        lambda place: place.facts("A\tb\tC\nA\tb\n"),
        r"mine.tsv, line 2: expected 3 columns separated by tabs.*correct the line",
    ),
    "a file in another encoding": (
        lambda place: place.facts("A\tb\tZ\u00fcrich\n".encode("latin-1")),
        r"mine.tsv, line 1: not UTF-8 \(byte 5\); convert the file to UTF-8",
    ),
    "a gzip file that breaks off": (
        lambda place: place.facts(gzip.compress(b"A\tb\tC\n" * 9999)[:-9], "mine.tsv.gz"),
        r"mine.tsv.gz: damaged after line \d+ .*; write it again",
    ),
    "a CSV file without a column": (
        lambda place: (
            place.written("twiki/0801-0901_changed.csv", "subject,relation\na,b\n"),
            TemporalWiki(folder="twiki", url="", snapshots="none").extract(),
        ),
        r"changed.csv, line 1: lacks the column 'object' .*add the header line",
    ),
    "JSON that is none": (
        lambda place: (
            place.written("codex/en/relations.json", '{"P17": '),
            Codex(folder="codex", size="s", labels="").extract(),
        ),
        r"relations.json, line 1, column 9: no JSON .*fetch it again",
    ),
    "a folder of data that is not there": (
        lambda place: Codex(folder="codex", size="s", labels="").extract(),
        r"codex: not found, nor codex.zip or codex.tar.gz; put .*or set KG_DATA_ROOT",
    ),
    "a fact about an unknown entity": (
        strange_entity,
        r"names the entity 'C0', which the source does not list; add it",
    ),
    "a source without facts": (no_facts, r"the source holds no facts; check its folder"),
    "data that never changes, for a timeline": (
        lambda place: planned(
            replace(place.world.graph, changes=place.world.graph.changes[:0]),
            read_table(place.world.paths.tables, "questions"),
            section(Timeline, OmegaConf.load(CONF / "timeline" / "default.yaml"), "timeline"),
            0,
        ),
        r"one snapshot only, so nothing changes; choose data with several, such as data=world",
    ),
    "a table of nouns with a torn line": (
        lambda place: noun_table(place.written("nouns.tsv", "key\tlabel\n")),
        r"nouns.tsv, line 1: the columns must be key, label, noun_tail",
    ),
    # weights
    "a model's folder without a model": (
        lambda place: fetch("m", str(place.folder), ""),
        r"m: tried the folder .*holds no config.json; point `source`",
    ),
    "a source of weights of no known form": (
        lambda place: fetch("m", "hub:owner/name", ""),
        r"'hub:owner/name' is not of the form hub:OWNER/NAME@REVISION",
    ),
    "a wheel with other bytes": (wrong_wheel, r"thing-1-.*SHA-256 is .* but conf/.* pins 000.*delete"),
    "a stop token that the tokenizer lacks": (
        unknown_stop,
        r"conf/lm: lm.stop is '<nowhere>', which the tokenizer .* doesn't know",
    ),
    # what stages pass on
    "a table that is not there": (missing_table, r"facts.parquet: not found; run the stage that writes it"),
    "a table that is damaged": (damaged("tables/facts.parquet"), r"facts.parquet: damaged .*run `dvc repro`"),
    "a memory with damaged vectors": (
        damaged("index/vectors.safetensors"),
        r"index: not a memory .*run the stage `index`",
    ),
    "a memory of the other layout": (no_slots, r"holds no slot vectors, which memory.layout=slot needs; run"),
    "no RotatE vectors": (missing_rotate, r"rotate.safetensors: no RotatE vectors .*; run the stage `embed`"),
    "no adapter in a folder": (without_adapter, r"adapter.safetensors: not found; train it first"),
    "a damaged adapter": (damaged_adapter, r"adapter.safetensors: damaged .*train again"),
    "an adapter of another size": (
        adapter_of_another_size,
        r"heads.*but this configuration has .*train again",
    ),
    "no evaluation to report": (no_evaluation, r"no evaluation .*run `dvc repro`"),
    "a damaged evaluation": (damaged_metrics, r"metrics.json: damaged .*run `dvc repro`"),
    # asking
    "no memory in a folder": (
        lambda place: place.ask("Who?", "--memory", str(place.folder), memory=False),
        r"not a memory .*run the stage `index`",
    ),
    "a question of blanks to a session": (
        lambda place: Session.open(place.trained.adapter, place.trained.memory).ask(" "),
        r"the question is empty; ask something",
    ),
    "more facts to read than candidates": (
        asked("--k", "99"),
        r"--k: memory.k \(99\) must not exceed memory.N",
    ),
    "a fact in another form": (
        asked("--upsert", "A, b, C"),
        r"expected Head \| relation \| Tail, got 'A, b, C'; write",
    ),
    "a fact that is not there to delete": (
        asked("--delete", "Aland | capital | Rome"),
        r"can't be deleted; Aland has capital \| Aland City",
    ),
    "a label of two entities": (two_of_one_name, r"2 have this label; give the key instead: Lyon \(France\)"),
    "a memory without facts": (everything_deleted, r"the memory holds no fact; add one by --upsert"),
}


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: SmallWorld,
    lm: Any,
    encoder: Any,
    sound: Trained,
) -> Place:
    """Copies of everything, in a folder that is the working directory and the data root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    copy = SmallWorld(paths(tmp_path / "world"))
    shutil.copytree(world.paths.tables.parent, tmp_path / "world")
    adapter = shutil.copytree(sound.adapter, tmp_path / "adapter")
    return Place(tmp_path, copy, Trained(adapter, copy.paths.index, sound.facts), lm, encoder, monkeypatch)


@pytest.fixture(scope="module")
def sound(world: SmallWorld, lm: Any, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_folder(world, lm, encoder, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("what", CASES)
def test_bad_input_gives_an_error_that_names_the_thing_and_the_remedy(what: str, place: Place) -> None:
    call, words = CASES[what]
    with pytest.raises((UserError, ConfigError, SystemExit), match=words) as caught:
        call(place)
    text = str(caught.value)
    assert "\n" not in text, "an error is one line"
    assert "Traceback" not in text


def test_the_list_is_as_long_as_promised() -> None:
    assert len(CASES) >= 20
