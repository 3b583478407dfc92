"""Nothing that the server loads can run code: weights are safetensors, tables Parquet, all else is text."""

import ast
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.memory.store import KnowledgeMemory
from pipeline.serve.session import Session
from tests.closure import ROOT, closure
from tests.serve.small import Trained

LOADERS = {
    "pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "torch.load", "torch.save", "numpy.load", "np.load", "read_pickle", "to_pickle", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "allow_pickle", "weights_only", "trust_remote_code",
}  # fmt: skip
"""Names of what reads code, or what may be code."""


def names(tree: ast.AST) -> set[str]:
    """Return every name that a module uses, with the attribute behind it, and every keyword."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            base = node.value.id if isinstance(node.value, ast.Name) else ""
            found |= {f"{base}.{node.attr}"} | {node.attr} - {"eval"}  # models have one of their own
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


def test_no_module_of_the_server_reads_what_may_be_code() -> None:
    modules = [file for file in closure("pipeline.serve.serve") if file.endswith(".py")]
    assert len(modules) > 80
    assert "pipeline/memory/snapshot.py" in modules
    used = {file: names(ast.parse((ROOT / file).read_text(encoding="utf-8"))) & LOADERS for file in modules}
    assert {module: found for module, found in used.items() if found} == {}


@pytest.mark.parametrize(
    "line", ["import pickle", "x = torch.load(f)", "np.load(f, allow_pickle=True)", "eval(x)"]
)
def test_the_check_finds_them(line: str) -> None:
    assert names(ast.parse(line)) & LOADERS


def test_a_folder_holds_no_other_kind_of_file(trained: Trained, tmp_path: Path) -> None:
    session = Session.open(trained.adapter, tmp_path / "memory", trained.facts, write=True)
    session.upsert("France | capital | Lyon")
    session.system.memory.merge()  # type: ignore[attr-defined]
    session.system.memory.snapshot(tmp_path / "snapshot")
    session.close()
    kinds = {".safetensors", ".parquet", ".json", ".bin", ""}
    files = [path for path in [*tmp_path.rglob("*"), *trained.adapter.rglob("*")] if path.is_file()]
    assert {path.suffix for path in files} <= kinds
    for path in files:
        assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x02", b"PK\x03\x04")), path


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def test_a_pickle_in_place_of_a_file_is_damage_and_never_run(trained: Trained, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    stream = io.BytesIO()
    pickle.dump(Trap(sprung), stream)
    session = Session.open(trained.adapter, tmp_path / "memory", trained.facts, write=True)
    session.upsert("France | capital | Lyon")
    session.close()
    memory = session.system.memory
    told: list[bool] = []
    for source in (trained.adapter, trained.memory, tmp_path / "memory"):
        for file in [path for path in source.rglob("*") if path.is_file() and path.stat().st_size]:
            folder = tmp_path / "copy"
            shutil.copytree(source, folder)
            (folder / file.relative_to(source)).write_bytes(stream.getvalue())
            try:
                if source == trained.adapter:
                    Session.open(folder, trained.memory)
                else:
                    KnowledgeMemory.open(folder, memory.settings, memory.encoder)
            except UserError as error:
                told.append(str(folder) in str(error))
            assert not sprung.exists(), file
            shutil.rmtree(folder)
    assert len(told) > 5
    assert all(told), "each names what is damaged"
    pickle.loads(stream.getvalue())
    assert sprung.exists(), "the trap works"
