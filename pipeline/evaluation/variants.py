"""Methods by a line of text: a file of conf/method with other values, of the memory too, and its adapter."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import OmegaConf

from pipeline.config import CONF, ConfigError, Paths, section
from pipeline.evaluation.editors import Editing
from pipeline.evaluation.majority import Majority
from pipeline.evaluation.methods import Answerer, build
from pipeline.evaluation.systems import (
    ADAPTERS,
    NAMES,
    Method,
    SystemAnswerer,
    has_adapter,
    open_system,
)
from pipeline.kg.facts import Graph
from pipeline.memory.settings import Memory
from pipeline.model.adapter import load_adapter
from pipeline.model.system import System
from pipeline.weights import Encoder, LanguageModel

SEED = "SEED"
"""Stands for the seed in `paths.adapters`."""
OF_MEMORY = "memory."
NAMELESS = "majority"
"""The method that has no system."""
EDITORS = {kind.__name__.lower() for kind in get_args(Editing)}
"""Kinds of methods that change weights instead of a memory."""


@dataclass(frozen=True)
class Variant:
    """A method with its values, the memory's, and where its adapter is."""

    name: str
    method: Method
    memory: Memory
    folder: str
    """Below `paths.adapters`."""

    @classmethod
    def read(cls, text: str, memory: Memory) -> "Variant":
        """Return the variant of "FILE", "FILE:key=value,memory.key=value" or either with "@FOLDER".

        Raises:
            ConfigError: there is no such file in conf/method, or a value is out of its range.
        """
        chosen, _, folder = text.partition("@")
        name, _, changes = chosen.partition(":")
        file = CONF / "method" / f"{name}.yaml"
        if not file.is_file():
            raise ConfigError(f"{text!r}: there is no {name!r} in conf/method")
        pairs = list(filter(None, changes.split(",")))
        own = [pair for pair in pairs if not pair.startswith(OF_MEMORY)]
        other = [pair.removeprefix(OF_MEMORY) for pair in pairs if pair.startswith(OF_MEMORY)]
        method: Method = section(Method, _changed(OmegaConf.load(file), own), "method")
        held: Memory = section(Memory, _changed(asdict(memory), other), "memory")
        kind = NAMES[type(method)]
        return cls(chosen, method, held, folder or ADAPTERS.get(kind, kind))

    def open(
        self,
        lm: LanguageModel,
        encoder: Encoder,
        graph: Graph,
        paths: Paths,
        device: torch.device,
        seed: int,
        trained: bool = True,
    ) -> System:
        """Return its system, with the adapter of `seed` where it is to be trained and has one."""
        system = open_system(self.method, self.memory, lm, encoder, graph, paths, device)
        if trained:
            self.load(system, paths, seed)
        return system.eval()

    def load(self, system: System, paths: Paths, seed: int) -> None:
        """Put the adapter of `seed` into `system`, where the method has one."""
        if has_adapter(self.method):
            load_adapter(system, Path(str(paths.adapters).replace(SEED, str(seed))) / self.folder)


def answerer(
    text: str,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    graph: Graph,
    paths: Paths,
    device: torch.device,
    seed: int,
) -> Answerer:
    """Return the answerer of an entry, with the adapter of `seed`: a variant, an editor, or `majority`.

    Raises:
        ConfigError: there is no such file in conf/method, or a value is out of its range.
    """
    if text == NAMELESS:
        return build(Majority(), graph=graph)
    name, _, changes = text.partition(":")
    file = CONF / "method" / f"{name}.yaml"
    if file.is_file() and OmegaConf.load(file).kind in EDITORS:
        values = _changed(OmegaConf.load(file), list(filter(None, changes.split(","))))
        return build(section(Editing, values, "method"), lm=lm)
    variant = Variant.read(text, memory)
    return SystemAnswerer(variant.name, variant.open(lm, encoder, graph, paths, device, seed), graph)


def _changed(values: Any, changes: list[str]) -> Any:
    return OmegaConf.merge(values, OmegaConf.from_dotlist(changes))
