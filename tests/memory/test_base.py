import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ROOT, UserError
from pipeline.memory.base import Base
from pipeline.memory.build import Packing, build
from pipeline.memory.flat import LIST
from tests.memory.bases import ENTITIES, RELATIONS, TRIPLES, Triple, built, rows


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@settings(max_examples=30, deadline=None)
@given(
    facts=st.lists(TRIPLES, max_size=60), cut=st.integers(0, 60), memory=st.sampled_from([1, 200, 1 << 20])
)
def test_a_base_holds_each_fact_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, facts: list[Triple], cut: int, memory: int
) -> None:
    folder = tmp_path_factory.mktemp("base") / "base"
    base, again = built(folder, [rows(facts[:cut]), rows(facts[cut:])], memory=memory)
    right = sorted(set(facts))
    assert len(base) == len(right)
    assert again == len(facts) - len(right)
    assert [tuple(row) for row in base.triples(np.arange(len(base))).tolist()] == right
    every = [(h, r, t) for h in range(ENTITIES) for r in range(RELATIONS) for t in range(ENTITIES)]
    ids = {fact: row for row, fact in enumerate(right)}
    assert base.find(rows(every)).tolist() == [ids.get(fact, -1) for fact in every]
    assert [base.find_one(*fact) for fact in every] == [ids.get(fact) for fact in every]
    heads = np.array([3, 0, 3, ENTITIES - 1])
    assert base.counts(heads).tolist() == [sum(h == head for h, _, _ in right) for head in heads]
    found, place = base.of(heads)
    of = [(ids[fact], i) for i, head in enumerate(heads.tolist()) for fact in right if fact[0] == head]
    assert list(zip(found.tolist(), place.tolist(), strict=True)) == of
    for head in range(ENTITIES):
        for relation in range(RELATIONS):
            slot = [ids[fact] for fact in right if fact[:2] == (head, relation)]
            assert base.slot(head, relation).tolist() == slot
    base.files.check()
    assert [path.name for path in folder.parent.iterdir()] == ["base"]


def test_a_hundred_thousand_facts_with_hubs(tmp_path: Path, random: np.random.Generator) -> None:
    entities, relations = 3000, 300
    heads = np.where(random.random(120_000) < 0.6, 70, random.integers(0, entities, 120_000))
    facts = np.stack(
        [heads, random.integers(0, relations, len(heads)), random.integers(0, entities, len(heads))], 1
    )
    base, again = built(tmp_path / "base", np.array_split(facts, 7), entities, relations)
    right = np.unique(facts, axis=0)
    assert again == len(facts) - len(right)
    assert base.relations.dtype == np.uint16
    assert base.counts(np.array([70]))[0] > 65_536
    assert np.array_equal(base.triples(np.arange(len(base))), right)
    assert np.array_equal(base.find(right[::7]), np.arange(len(right))[::7])
    assert np.array_equal(base.starts[np.arange(entities)], np.searchsorted(right[:, 0], np.arange(entities)))
    start, end = base.slots(right[:, 0], right[:, 1])
    slot = right[:, 0] * relations + right[:, 1]
    assert np.array_equal(start, np.searchsorted(slot, slot))
    assert np.array_equal(end, np.searchsorted(slot, slot, side="right"))


def test_names_are_found_and_told(tmp_path: Path) -> None:
    base, _ = built(tmp_path / "base", [])
    assert len(base) == 0
    assert base.entities == ENTITIES
    assert base.entity_texts[3] == "q number 3"
    assert base.relation_keys.many(np.arange(RELATIONS)) == [f"P{i}" for i in range(RELATIONS)]
    assert base.entity_keys.find(["Q6", "Q7", "Q0"]).tolist() == [6, -1, 0]
    assert base.relation_texts[4] == "p number 4"


def test_the_same_facts_give_the_same_bytes(tmp_path: Path, random: np.random.Generator) -> None:
    facts = random.integers(0, RELATIONS, (200, 3))
    built(tmp_path / "a", [facts])
    built(tmp_path / "b", [facts[100:], facts[:100], facts[50:90]], memory=64)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        ((ENTITIES, 0, 0), "a fact names the head 7, but there are 7"),
        ((0, RELATIONS, 0), "a fact names the relation 5, but there are 5"),
        ((0, 0, -1), "a fact names the tail -1, but there are 7"),
    ],
)
def test_a_fact_of_what_is_not_there_is_named_and_nothing_is_left(
    tmp_path: Path, fact: Triple, text: str
) -> None:
    with pytest.raises(UserError, match=text):
        built(tmp_path / "base", [rows([(0, 0, 0)]), rows([fact])])
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_comes_twice_is_named(tmp_path: Path) -> None:
    keys = [f"Q{i}" for i in range(100)] + ["Q57"]
    with pytest.raises(UserError, match=r"entities\.keys: 'Q57' comes twice"):
        build(tmp_path / "base", [(keys, keys)], [(["P0"], ["p"])], [])
    assert list(tmp_path.iterdir()) == []


def test_too_many_entities_for_a_number_are_named() -> None:
    with pytest.raises(UserError, match="a fact takes 65 bits"):
        Packing(1 << 28, 1 << 9)
    assert Packing(10**8, 1000).largest < 1 << 64


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="is there already"):
        built(tmp_path / "base", [])
    assert list((tmp_path / "base").iterdir()) == []


def test_an_error_of_the_source_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield rows([(0, 0, 0)] * 50)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "base", broken(), memory=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 40, 1000])
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, room: int) -> None:
    """Files can't grow beyond `room` bytes: none at all, not the larger ones, or not the list at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(UserError, match=r"base: can't be written \(.*free some space"):
            built(tmp_path / "base", [rows([(0, 0, 1), (2, 3, 4)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
from pathlib import Path
from tests.memory.bases import built, rows

def slow():
    while True:
        yield rows([(0, 0, i % 7) for i in range(500)])
        print("one", flush=True)
        time.sleep(0.01)

built(Path(sys.argv[1]), slow(), memory=1000)
"""


def test_a_killed_build_is_no_base_and_the_next_one_clears_it_away(tmp_path: Path) -> None:
    target = tmp_path / "base"
    command = [sys.executable, "-c", SLOW, str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".base.part"]
    built(target, [rows([(1, 2, 3)])])
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert len(Base.open(target)) == 1


def test_each_file_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    built(tmp_path / "base", [rows([(0, 0, 1), (2, 3, 4)])])
    for file in sorted((tmp_path / "base").iterdir()):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=rf"{file.name}: can't be read.*restore the folder"):
            Base.open(tmp_path / "base")
        file.write_bytes(content + b"x")
        with pytest.raises(UserError, match=rf"{file.name}.*(restore the folder|build it anew)"):
            Base.open(tmp_path / "base")
        file.write_bytes(content)
    assert len(Base.open(tmp_path / "base")) == 2


@pytest.mark.parametrize(
    ("array", "text"),
    [
        ("facts.tails", "holds 2 and 3 facts at once"),
        ("facts.relations", "holds 2 and 3 facts at once"),
        ("heads.blocks", "the arrays of heads don't fit together"),
    ],
)
def test_arrays_of_two_bases_are_not_taken_for_one(tmp_path: Path, array: str, text: str) -> None:
    built(tmp_path / "a", [rows([(0, 0, 1), (2, 3, 4)])])
    built(tmp_path / "b", [rows([(0, 0, 1), (2, 3, 4), (6, 0, 0)])], 100)
    lists = {name: json.loads((tmp_path / name / LIST).read_text()) for name in "ab"}
    lists["a"]["arrays"][array] = lists["b"]["arrays"][array]
    (tmp_path / "a" / LIST).write_text(json.dumps(lists["a"]))
    shutil.copy(tmp_path / "b" / f"{array}.bin", tmp_path / "a")
    with pytest.raises(UserError, match=rf"{text}\); restore the folder"):
        Base.open(tmp_path / "a")


def test_names_of_another_number_are_not_taken(tmp_path: Path) -> None:
    built(tmp_path / "a", [])
    file = tmp_path / "a" / LIST
    told = json.loads(file.read_text())
    told["about"]["entities.texts.rows"] = 6
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match="holds 6 and 7 entities at once"):
        Base.open(tmp_path / "a")
