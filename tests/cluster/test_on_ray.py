"""What needs a Ray, in one module so that it is started once: blocks, and copies of shards as actors."""

import copy
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.cluster.__main__ import run
from pipeline.cluster.actors import NAMESPACE, Address, name_of, opened, running
from pipeline.cluster.sharded import ShardedMemory
from pipeline.config import UserError
from pipeline.index import index
from pipeline.kg import synthesis as rows_of
from pipeline.kg.sources import large
from pipeline.kg.sources.wikidata5m import PARTS
from pipeline.mapping import Kept, Local, Ray, fingerprint
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Key
from pipeline.memory.store import KnowledgeMemory
from pipeline.synthesize import synthesize
from pipeline.weights import Encoder
from tests.cluster.clusters import fact, same_answers
from tests.cluster.dying import Dying, Squares
from tests.kg.graphs import paths, synthesis, write_graph
from tests.kg.sources.test_wikidata5m import SOURCE, SPLITS, triples
from tests.memory.small import ask
from tests.test_synthesize import LM
from tests.tiny import SmallWorld, memory_settings

BLOCKS = [np.arange(start, start + 3) for start in range(0, 30, 3)]
SQUARES = np.arange(30) ** 2
WORDS = ["one", "two", "three", "five", "eight", "nine", "ten", "twelve", "thirteen", "hundred"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]


def on_ray(kept: Path | None = None, **changes: Any) -> Ray:
    values: dict[str, Any] = {"address": "auto", "cpus": 1, "gpus": 0, "ahead": 4, "retries": 2}
    return Ray(**(values | changes), kept=kept)


def files(folder: Path) -> dict[str, bytes]:
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert found
    return found


def died(found: Iterator[Any]) -> None:
    """Take five blocks and end as a process does that is killed."""
    list(islice(found, 5))
    raise RuntimeError("the power is gone")


def told(file: Path) -> list[int]:
    return list(map(int, file.read_text().split()))


def test_a_run_that_died_goes_on_from_its_finished_blocks(tmp_path: Path) -> None:
    where, file = Local(kept=tmp_path / "kept"), tmp_path / "told"
    with pytest.raises(RuntimeError, match="the power is gone"), where.mapping() as mapped:
        died(mapped(Squares(file), BLOCKS))
    left = list((tmp_path / "kept").iterdir())
    assert len(left) == 5
    (tmp_path / "kept" / f".{left[0].name}.part").write_bytes(b"half of")
    with where.mapping() as mapped:
        found = np.concatenate(list(mapped(Squares(file), BLOCKS)))
    assert np.array_equal(found, SQUARES)
    assert told(file) == [int(block[0]) for block in BLOCKS], "each block was computed once"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f".{left[0].name}.part"]


def test_a_finished_block_is_of_its_function_and_its_input(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    one, other = (fingerprint(Squares(tmp_path / name)) for name in ("one", "other"))
    names = {kept.file(name, block) for name in (one, other) for block in BLOCKS}
    assert len(names) == 2 * len(BLOCKS)
    large = pa.array([f"a name of some length {i}" for i in range(10_000)])
    for block in (BLOCKS[0], np.arange(100_000), (large, np.arange(100_000))):
        assert kept.file(one, block) == Kept(tmp_path).file(one, copy.deepcopy(block))
    assert kept.file(one, np.arange(100_000)) != kept.file(one, np.arange(1, 100_001))


def test_blocks_are_read_only_as_they_are_taken(ray: Any, tmp_path: Path) -> None:
    read: list[int] = []

    def blocks() -> Iterator[Any]:
        for block in BLOCKS:
            read.append(int(block[0]))
            yield block

    with on_ray(ahead=3).mapping() as mapped:
        found = mapped(Squares(tmp_path / "told"), blocks())
        next(found)
        assert len(read) == 3
        next(found)
        assert len(read) == 4
        assert sum(1 for _ in found) == len(BLOCKS) - 2


def test_a_worker_that_is_killed_loses_and_doubles_nothing(ray: Any, tmp_path: Path) -> None:
    run = Squares(tmp_path / "told", dies=9)
    with on_ray().mapping() as mapped:
        found = list(mapped(run, BLOCKS))
    assert np.array_equal(np.concatenate(found), SQUARES)
    assert (tmp_path / "told.died").exists()
    assert told(tmp_path / "told").count(9) == 2


def test_an_error_is_the_functions_own_and_the_rest_is_kept(ray: Any, tmp_path: Path) -> None:
    where = on_ray(tmp_path / "kept", ahead=1)
    with pytest.raises(RuntimeError, match=r"^the power is gone$"), where.mapping() as mapped:
        list(mapped(Squares(tmp_path / "told", fails=12), BLOCKS))
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_encoding_with_a_killed_worker_is_encoding_here(ray: Any, encoder: Encoder, tmp_path: Path) -> None:
    here = TextEncoder(encoder, "cpu").encode(TEXTS)
    with on_ray().mapping() as mapped:
        there = Dying(encoder, "nine ten", tmp_path / "mark", mapped).encode(TEXTS)
    assert (tmp_path / "mark").exists()
    assert torch.equal(here, there)


def test_ingest_writes_the_same_bytes(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "BLOCK", 512)
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    source = tmp_path / "w5m"
    source.mkdir()
    for part in PARTS:
        lines = ["\t".join(triple) for triple in triples(part)]
        (source / f"wikidata5m_transductive_{part}.txt").write_text("\n".join(lines) + "\n")
    for kind in ("entity", "relation", "text"):
        (source / f"wikidata5m_{kind}.txt").write_text("Q2\tName 2\n")
    for name, where in (("local", Local(kept=None)), ("ray", on_ray())):
        with where.mapping() as mapped:
            SOURCE.write(SPLITS, 0, tmp_path / name, mapped)
    assert files(tmp_path / "local") == files(tmp_path / "ray")


def test_synthesize_writes_the_same_bytes(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_of, "CHUNK", 7)
    write_graph(tmp_path / "tables")
    for name, where in (("local", Local(kept=None)), ("ray", on_ray(tmp_path / "kept"))):
        run = synthesize.run  # type: ignore[attr-defined]
        (tmp_path / name).mkdir()
        run(synthesis(), LM, paths(tmp_path), where, 0, tmp_path / name)
    assert files(tmp_path / "local") == files(tmp_path / "ray")


def test_index_writes_the_same_bytes(ray: Any, world: SmallWorld, encoder: Encoder, tmp_path: Path) -> None:
    for name, where in (("local", Local(kept=None)), ("ray", on_ray(tmp_path / "kept"))):
        run = index.run  # type: ignore[attr-defined]
        (tmp_path / name).mkdir()
        run(encoder, memory_settings(), world.paths, where, tmp_path / name)
    assert files(tmp_path / "local") == files(tmp_path / "ray")
    assert not (tmp_path / "kept").exists(), "finished blocks are removed at the end"


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "ray" or name.startswith("ray."):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install '\.\[cluster\]'"), on_ray().mapping():
        pass


FACTS: list[Key] = [(f"Q{i}", f"P{i % 4}", f"Q{(3 * i + 1) % 8}") for i in range(8) if i != 4]
LATER: list[Key] = [(f"Q{i}", f"P{(i + 1) % 4}", f"Q{(5 * i + 2) % 8}") for i in range(8) if i != 4]
CHOSEN = memory_settings(N=50, entities=50)


def kill(ray: Any, name: str) -> None:
    """End the process of an actor as a machine that fails does."""
    actor = ray.get_actor(name, NAMESPACE)
    os.kill(ray.get(actor.process.remote()), signal.SIGKILL)


def mended(memory: ShardedMemory) -> None:
    """Wait until the copies that died are back, which nobody has to ask for."""
    ends = time.monotonic() + 60
    while any(len(shard.members) < 2 for shard in memory.shards) and time.monotonic() < ends:
        time.sleep(0.1)
    assert [sorted(shard.members) for shard in memory.shards] == [[0, 1], [0, 1]]


def test_actors_are_one_memory_and_outlive_a_killed_one(
    ray: Any, encoder: Encoder, texts: TextEncoder, tmp_path: Path
) -> None:
    place = ["--folder", str(tmp_path), "--shards", "2", "--replication", "2"]
    names = [name_of("facts", i, j) for i in range(2) for j in range(2)]
    assert run(["start", "facts", *place], CHOSEN, encoder) == {"running": names}
    assert running("facts") == {0: [0, 1], 1: [0, 1]}
    single, memory = KnowledgeMemory(CHOSEN, texts), opened(Address("facts", "auto"), CHOSEN, texts)
    for one in (single, memory):
        one.upsert([fact(key) for key in FACTS])
    query = ask(texts, 3, hops=2)
    same_answers(single, single.search(query), memory, memory.search(query))

    kill(ray, name_of("facts", 0, 0))
    same_answers(single, single.search(query), memory, memory.search(query))
    for one in (single, memory):
        one.upsert([fact(key) for key in LATER])
        one.delete(FACTS[:2])
    same_answers(single, single.search(query), memory, memory.search(query))

    mended(memory)
    kill(ray, name_of("facts", 0, 1))  # now only the one that returned knows what was acknowledged
    found = memory.search(query)
    ours, theirs = single.search(query), found
    assert {single.key(row) for row in ours.facts[0].tolist() if row >= 0} == {
        memory.key(row) for row in theirs.facts[0].tolist() if row >= 0
    }
    assert len(memory) == len(single) == len(FACTS) + len(LATER) - 2
    with pytest.raises(UserError, match="comes without a name"):
        memory.upsert([type(fact(FACTS[0]))("Q77", "P0", "Q1")])
    told = run(["status", "facts"], CHOSEN, encoder)["copies"]
    assert list(told) == names
    assert told["facts/1/0"] == told["facts/1/1"]
    assert told["facts/1/0"]["members"] == (0, 1)
    assert run(["stop", "facts"], CHOSEN, encoder) == {"ended": 4}
    with pytest.raises(UserError, match="no memory 'facts' runs on this Ray cluster"):
        run(["status", "facts"], CHOSEN, encoder)


def test_a_command_that_makes_no_sense_says_why(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shards must be at least 1, not 0"):
        run(["split", "nowhere", "--folder", str(tmp_path), "--shards", "0"], CHOSEN, encoder)
    with pytest.raises(UserError, match="nowhere"):
        run(["split", "nowhere", "--folder", str(tmp_path)], CHOSEN, encoder)


def test_an_address_names_a_memory() -> None:
    assert Address.parsed("models/index") is None
    assert Address.parsed("cluster:facts") == Address("facts", "auto")
    assert Address.parsed("cluster:facts@head:6379") == Address("facts", "head:6379")
    with pytest.raises(UserError, match="expected cluster:NAME"):
        Address.parsed("cluster:@head:6379")
