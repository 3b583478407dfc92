"""The stage `embed` on small tables: what it writes, that it repeats itself, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Paths, UserError
from pipeline.embed import embed, write
from pipeline.kg.facts import Graph, write_table
from pipeline.kg.rotate import Rotate
from pipeline.kg.rotate_training import Trained, split
from tests.rotations import laptop, ring


def tables(folder: Path, facts: np.ndarray, entities: int, relations: int, snapshots: list[int]) -> None:
    names = [f"e{number}" for number in range(entities)]
    kinds = [f"r{number}" for number in range(relations)]
    rows = len(facts)
    write_table(
        folder,
        "entities",
        {
            "id": range(entities),
            "key": names,
            "label": names,
            "description": names,
            "aliases": [[]] * entities,
        },
    )
    write_table(
        folder,
        "relations",
        {"id": range(relations), "key": kinds, "label": kinds, "noun_tail": kinds, "noun_head": kinds},
    )
    columns = dict(zip(("head", "relation", "tail"), facts.T, strict=True))
    texts = dict.fromkeys(("start", "end", "source"), [""] * rows)
    write_table(
        folder,
        "facts",
        {"id": range(rows), **columns, **texts, "snapshot": snapshots, "fold": ["train"] * rows},
    )
    write_table(
        folder,
        "changes",
        {"snapshot": [1] * max(snapshots), "op": ["upsert"] * max(snapshots), "fact": [0] * max(snapshots)},
    )


def paths(folder: Path) -> Paths:
    return Paths(
        tables=folder / "tables",
        kv=folder / "kv",
        rotate=folder / "models" / "embed",
        index=folder / "index",
        adapters=folder / "adapters",
        evaluations=folder / "evaluations",
        reports=folder / "reports",
    )


def quick(**changes: object) -> Rotate:
    return laptop(
        **({"epochs": 4, "evaluate_every": 2, "dimension": 4, "device": "cpu", "test": 0.1} | changes)
    )


def run(folder: Path, rotate: Rotate, out: str = "out") -> Path:
    (folder / out).mkdir(exist_ok=True)
    embed.run(rotate, paths(folder), 0, folder / out)
    return folder / out


def some_tables(folder: Path) -> np.ndarray:
    """Entities 24 and 25 and relation 3 occur in no base fact; the last fact joins in snapshot 1."""
    facts = np.concatenate([ring(), [[25, 3, 0]]])
    tables(folder / "tables", facts, 26, 4, [0] * (len(facts) - 1) + [1])
    return facts


def test_every_row_of_the_tables_gets_a_vector(tmp_path: Path) -> None:
    some_tables(tmp_path)
    rotate = quick()
    out = run(tmp_path, rotate)
    vectors = load_file(out / "rotate.safetensors")
    assert {name: tensor.shape for name, tensor in vectors.items()} == {
        "entities": (26, 8),
        "relations": (4, 8),
    }
    assert all(tensor.dtype == torch.float32 for tensor in vectors.values())
    assert (vectors["entities"].abs().sum(dim=1) > 0).tolist() == [True] * 24 + [False] * 2
    moduli = torch.hypot(*vectors["relations"][:3].chunk(2, dim=1))
    assert torch.allclose(moduli, torch.ones(3, 4), atol=1e-5)
    assert not vectors["relations"][3].any()
    summary = json.loads((out / "embed.json").read_text())
    assert summary["entities"] == {"trained": 24, "zero": 2}
    assert summary["relations"] == {"trained": 3, "zero": 1}
    assert sum(summary["facts"].values()) == 72
    assert summary["facts"]["validation"] > 0 < summary["facts"]["test"]
    assert set(summary["test"]) == set(summary["evaluators"]) == {"filtered", "type_filtered"}
    assert {"mrr", "hits@1", "hits@3", "hits@10"} <= set(summary["test"]["filtered"])
    assert not list((tmp_path / "models").rglob("*.pt"))


@pytest.mark.parametrize("trainer", ["self_adversarial", "one_vs_all"])
def test_same_seed_same_bytes(tmp_path: Path, trainer: str) -> None:
    some_tables(tmp_path)
    files = [run(tmp_path, quick(trainer=trainer), out) / "rotate.safetensors" for out in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_process_killed_between_epochs_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    some_tables(tmp_path)
    whole = run(tmp_path, quick(epochs=6), "whole") / "rotate.safetensors"
    program = f"""
import os, signal, pathlib, pipeline.embed as stage
from tests.test_embed import quick, paths
original = stage.train
def train(*given, report, **named):
    def killing(progress):
        report(progress)
        if progress.epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return original(*given, report=killing, **named)
stage.train = train
folder = pathlib.Path({str(tmp_path)!r})
stage.embed.run(quick(epochs=6), paths(folder), 0, folder / "whole")
"""
    killed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(list((tmp_path / "models" / "checkpoints").glob("embed-*.pt"))) == 1
    resumed = run(tmp_path, quick(epochs=6), "resumed")
    assert (resumed / "rotate.safetensors").read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "models" / "checkpoints").iterdir())


def test_held_out_facts_are_disjoint_from_those_trained_on(tmp_path: Path) -> None:
    some_tables(tmp_path)
    facts, entities, relations = split(quick(), Graph.read(tmp_path / "tables"), 0)
    sets = [{tuple(row) for row in part.tolist()} for part in (facts.train, facts.valid, facts.test)]
    assert len(set.union(*sets)) == sum(len(one) for one in sets) == 72
    assert entities.tolist() == list(range(24))
    assert relations.tolist() == [0, 1, 2]
    assert set(facts.train[:, [0, 2]].ravel()) == set(range(24))


def test_no_base_fact_says_so(tmp_path: Path) -> None:
    tables(tmp_path / "tables", ring()[:1], 26, 3, [1])
    with pytest.raises(UserError, match=r"no fact holds in the base snapshot .* data choice"):
        run(tmp_path, quick())


def test_missing_tables_name_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"entities.parquet: not found; run the stage"):
        run(tmp_path, quick())


def test_vectors_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    some_tables(tmp_path)
    _, entities, relations = split(quick(), Graph.read(tmp_path / "tables"), 0)
    broken = torch.full((24, 4), torch.nan, dtype=torch.cfloat)
    trained = Trained(broken, torch.ones(3, 4, dtype=torch.cfloat), None)
    with pytest.raises(UserError, match=r"vectors of entities are not finite; lower rotate.learning_rate"):
        write(tmp_path, trained, Graph.read(tmp_path / "tables"), entities, relations)
    assert not (tmp_path / "rotate.safetensors").exists()
