"""Contexts by a line of text: a name, and other settings behind a colon: `dsram:ring=4096,rank_keys=0`."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf

from pipeline.config import UserError, section
from pipeline.longcontext import contexts as baselines
from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.settings import Baselines
from pipeline.longcontext.context import Context
from pipeline.longcontext.dsram import Dsram, Shape
from pipeline.longcontext.lowrank import Bases
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import LongContext

OURS = "dsram"
Settings = TypeVar("Settings")


class Contexts:
    """Makes fresh contexts.

    Args:
        runner: what reads through them.
        settings: of DSRAM.
        others: of the baselines.
        folder: what `longcontext_train` wrote.
    """

    def __init__(self, runner: Runner, settings: LongContext, others: Baselines, folder: Path) -> None:
        self.runner, self.settings, self.others, self.folder = runner, settings, others, folder

    def make(self, entry: str, prompt: int, answer: int) -> Context:
        """Return a context for one batch of texts.

        Args:
            entry: see the module.
            prompt: tokens of each text with its question.
            answer: tokens of each answer.

        Raises:
            ConfigError: a setting is unknown or out of its range.
            UserError: there is no such context, or nothing was trained.
        """
        name, _, changes = entry.partition(":")
        if name != OURS:
            others = changed(self.others, changes, "longtasks")
            return baselines.build(name, self.runner, others, Lengths(prompt=prompt, answer=answer))
        lm = self.runner.lm
        settings = changed(self.settings.dsram, changes, "longcontext")
        return Dsram(settings, Shape.of(lm.config), self.retriever, self.bases, lm.device)

    @cached_property
    def retriever(self) -> Retriever:
        """The trained retriever."""
        return Retriever.load(self._file("retriever")).to(self.runner.lm.device).eval()

    @cached_property
    def bases(self) -> Bases:
        """The calibrated bases."""
        return Bases.load(self._file("bases"))

    def _file(self, name: str) -> Path:
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            raise UserError(f"{file}: not found; run `dvc repro longcontext_train`, or leave out {OURS}")
        return file


def changed(settings: Settings, changes: str, name: str) -> Settings:
    """Return settings with some of their values replaced: "key=value,inner.key=value".

    Raises:
        ConfigError: a setting is unknown or out of its range.
    """
    if not changes:
        return settings
    values: Any = OmegaConf.create(asdict(settings))  # type: ignore[call-overload]
    for pair in changes.split(","):
        key, _, value = pair.partition("=")
        OmegaConf.update(values, key, yaml.safe_load(value))
    found: Settings = section(type(settings), values, name)
    return found
