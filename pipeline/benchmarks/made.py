"""Tables and base memory of a data set that a command names, made once by the stages themselves."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from hydra.core.hydra_config import HydraConfig

from pipeline.config import CONF, Paths, UserError

STAGES = {"ingest": "tables", "synthesize": "kv", "index": "index"}
"""Stages and the folder that each writes, in their order."""
READ = ("data", "splits", "synthesis", "lm", "encoder", "seed")
"""Sections of conf/ that change what they write."""


def made(folder: Path, paths: Paths) -> Paths:
    """Return `paths` with the tables and the memory of the data set that the command line names.

    They are made below `folder`, where they aren't there yet with the same settings; `paths` is returned as
    it is where the command names no data set, or the tables itself.

    Raises:
        UserError: a stage fails; its own words say why.
    """
    if not HydraConfig.initialized():
        return paths
    given = HydraConfig.get()
    overrides = list(given.overrides.task)
    if not asks(overrides):
        return paths
    chosen = {group: str(choice) for group, choice in given.runtime.choices.items()}
    place = folder / f"{chosen['data']}-{key(overrides, chosen)}"
    done = place / "done"
    if not done.is_file():
        rmtree(place, ignore_errors=True)
        for name, words in commands(place, overrides).items():
            run(name, words)
        done.touch()
    return replace(paths, **{name: place / name for name in STAGES.values()})


def asks(overrides: Sequence[str]) -> bool:
    """Return whether overrides name a data set, and no tables that were made of one."""
    names = {override.split("=")[0] for override in overrides}
    return "data" in names and "paths.tables" not in names


def key(overrides: Sequence[str], chosen: dict[str, str]) -> str:
    """Return what tells the settings of the stages from others: their overrides and files of conf/."""
    own = sorted(one for one in overrides if one.split("=")[0].split(".")[0] in READ)
    files = [CONF / group / f"{chosen[group]}.yaml" for group in READ if group in chosen]
    texts = [*own, *(file.read_text(encoding="utf-8") for file in files)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def commands(place: Path, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return what each stage is called with so that it writes below `place`."""
    kept = [one for one in overrides if not one.startswith(("paths.", "hydra."))]
    folders = [f"paths.{name}={place / name}" for name in STAGES.values()]
    return {stage: [*kept, *folders, f"hydra.run.dir={place / name}"] for stage, name in STAGES.items()}


def run(name: str, words: Sequence[str]) -> None:
    """Run a stage.

    Raises:
        UserError: it fails; the text ends with its last words.
    """
    ended = subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *words], stderr=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        told = [line for line in ended.stderr.splitlines() if line.strip()]
        raise UserError(f"the stage {name} failed: {told[-1] if told else 'it said nothing'}")
