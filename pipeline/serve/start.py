"""Finds the adapter and the memory that a session begins with, and puts them together."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from pipeline.cluster.actors import Address, opened
from pipeline.config import CONF, ROOT, ConfigError, Paths, UserError, section
from pipeline.kg.sources.triples import read_triples
from pipeline.memory import generations
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact
from pipeline.memory.interface import Knowledge
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.adapter import load_adapter
from pipeline.model.ours import OurSystem
from pipeline.model.reader import Reader
from pipeline.model.settings import Ours
from pipeline.weights import Encoder, LanguageModel

EXAMPLES = Path(__file__).parent / "examples.tsv"
"""Well-known facts, to be asked before anything was trained."""
PRETRAINED = ROOT / "models" / "pretrained" / "ours"


@dataclass(frozen=True)
class Started:
    """A system that is ready, and where it came from."""

    system: OurSystem
    adapter: Path
    memory: Path
    """The folder or the cluster's address that was opened, or the file whose facts were taken in."""


def shared_paths() -> Paths:
    """Return the folders of conf/config.yaml."""
    values = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    paths: Paths = section(Paths, values["paths"], "paths")
    return paths


def start(
    adapter: Path | None,
    memory: Path | None,
    facts: Path | None,
    k: int | None,
    write: bool = False,
    sync: str = "always",
) -> Started:
    """Return the trained system on its memory.

    Args:
        adapter: its folder; by default the one that was trained here, else the shipped one.
        memory: folder of the memory, or `cluster:NAME@HOST:PORT` (docs/cluster.md); by default the one of the
            stage `index`, else the example facts.
        facts: a file of facts to take in place of a memory.
        k: facts that the language model reads; by default as trained.
        write: whether every change is in the folder `memory` before it is acknowledged. A new folder begins
            with `facts`; by default with the memory of the stage `index`, else the example facts.
        sync: when such a change is on disk, see `Journal`.

    Raises:
        UserError: one of them is missing or damaged, k is out of its range, or the folder isn't writable.
    """
    paths = shared_paths()
    folder = _adapter(adapter, paths.adapters / "ours")
    method, settings, lm, encoder = configuration(folder)
    if k is not None:
        try:
            settings = replace(settings, k=k)
        except ValueError as error:
            raise UserError(f"--k: {error}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts = TextEncoder(encoder, device)
    if facts is None and memory is None and not paths.index.is_dir():
        facts = EXAMPLES
    held: Knowledge
    address = Address.parsed(str(memory)) if memory is not None else None
    if memory is not None and address is not None:
        if facts is not None:
            raise UserError(f"{memory}: a cluster's memory can't begin with {facts}; start it with its facts")
        place, held = memory, opened(address, settings, texts, write)
    elif write:
        if memory is None:
            raise UserError("changes are to be kept, but in no folder; name one by --memory")
        place, held = memory, _kept(memory, facts, settings, texts, sync)
    else:
        place = facts or memory or paths.index
        held = filled(place, settings, texts) if facts else KnowledgeMemory.open(place, settings, texts)
    # Of a memory `ours` asks what `Knowledge` names, and nothing else.
    system = OurSystem(method, Reader(lm, device), texts, cast(KnowledgeMemory, held))
    load_adapter(system, folder)
    system.eval()
    return Started(system, folder, place)


def _kept(folder: Path, facts: Path | None, settings: Memory, texts: TextEncoder, sync: str) -> DurableMemory:
    """Return the memory in `folder`, open for writing; see `start` for what a new one begins with."""
    if generations.current(folder) is not None:
        if facts is not None:
            raise UserError(f"{folder}: is there already, so it can't begin with {facts}; name a new folder")
        return DurableMemory.begun(folder, settings, texts, sync)
    index = shared_paths().index
    if facts is None and index.is_dir():
        first = KnowledgeMemory.open(index, settings, texts)
    else:
        first = filled(facts or EXAMPLES, settings, texts)
    first.add_slots()
    return DurableMemory.begun(folder, settings, texts, sync, first)


def configuration(folder: Path) -> tuple[Ours, Memory, LanguageModel, Encoder]:
    """Return what adapter.json says the adapter was trained with.

    Raises:
        UserError: the file is missing or damaged, or belongs to another method.
    """
    file = folder / "adapter.json"
    if not file.is_file():
        raise UserError(f"{file}: not found; --adapter must name a folder that `train` wrote")
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kinds = {"method": Ours, "memory": Memory, "lm": LanguageModel, "encoder": Encoder}
        method, memory, lm, encoder = (section(kind, values[name], name) for name, kind in kinds.items())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error!r}); train again, or fetch the folder again") from error
    except ConfigError as error:
        reason = str(error).partition(": ")[2]
        raise UserError(f"{file}: not an adapter of `ours` ({reason}); name the folder of one") from error
    return method, memory, lm, encoder


def filled(file: Path, settings: Memory, encoder: TextEncoder) -> KnowledgeMemory:
    """Return a memory of the facts of `file`, whose labels are their keys."""
    memory = KnowledgeMemory(settings, encoder)
    memory.upsert(
        [Fact(*triple, *triple) for triple in ((t.head, t.relation, t.tail) for t in read_triples(file))]
    )
    return memory


def _adapter(wanted: Path | None, trained: Path) -> Path:
    if wanted is not None:
        return wanted
    for folder in (trained, PRETRAINED):
        if (folder / "adapter.safetensors").is_file():
            return folder
    raise UserError(
        f"no adapter: tried {trained} and {PRETRAINED}; run `make repro` to train one, "
        "or name the folder of one by --adapter"
    )
