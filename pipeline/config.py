"""Turns the composed Hydra configuration into the arguments of a stage.

`params.yaml` says which file of each group of `conf/` is used; those files hold the values. A stage is a
function whose parameter names are sections of that configuration and whose annotations are dataclasses
that check them, so nothing past this module ever sees a configuration object.
"""

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PARAMS = ROOT / "params.yaml"


class ConfigError(ValueError):
    """A value of the configuration that a stage can't take; the text names the key and its file."""


class UserError(Exception):
    """Something the user can put right; the text names the thing and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Folders that stages write and read, relative to the folder that the command runs in."""

    tables: Path
    """Tables of `ingest`."""
    kv: Path
    """Nouns, questions and key-value rows of `synthesize`."""
    rotate: Path
    """RotatE vectors of `embed`."""
    index: Path
    """Base vectors of `index`."""
    adapters: Path
    """Adapters of `train`, one folder a method."""
    evaluations: Path
    """Answers and metrics of `evaluate`, one folder a method."""
    reports: Path
    """What `report` gathers."""


def choices(path: Path = PARAMS) -> dict[str, str]:
    """Return the chosen file of each configuration group, as `params.yaml` lists them.

    Raises:
        ConfigError: the file is missing, or holds anything but `group: choice` lines.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: not found; it lists one choice per folder of conf/ (data: world, …)")
    chosen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(chosen, dict):
        raise ConfigError(f"{path}: must hold `group: choice` lines, found a {type(chosen).__name__}")
    for group, choice in chosen.items():
        if not (CONF / str(group)).is_dir():
            raise ConfigError(f"{path}: no group {group!r}; the groups are {', '.join(groups())}")
        if not (CONF / str(group) / f"{choice}.yaml").is_file():
            raise ConfigError(f"{path}: no {choice!r} in conf/{group}; there is {', '.join(options(group))}")
    return {str(group): str(choice) for group, choice in chosen.items()}


def groups() -> list[str]:
    """Return the names of the configuration groups, the folders of `conf/`."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def options(group: str) -> list[str]:
    """Return the choices that `conf/<group>` offers."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def stage(run: Callable[..., Any]) -> Callable[[], None]:
    """Make `run` an entry point whose arguments are sections of `conf/`.

    Each parameter of `run` names a section; its annotation is the dataclass that checks it, a union of
    dataclasses (the key `kind` picks one by its class name in lower case), or a plain type. The parameter
    `out` is the folder that the stage writes to: Hydra's run or sweep folder. What `run` returns goes to
    Hydra's sweeper, which may look for the overrides that make it large.
    """

    @wraps(run)
    def main(cfg: DictConfig) -> Any:
        try:
            return run(**arguments(run, cfg, Path(HydraConfig.get().runtime.output_dir)))
        except (ConfigError, UserError) as error:
            sys.exit(f"error: {error}")

    @wraps(run)
    def entry() -> None:
        started = sys.modules["__main__"]
        if run.__module__ == "__main__" and started.__spec__ is not None:
            # Workers of a launcher import what a job is made of; from the module that Python runs they can't.
            getattr(importlib.import_module(started.__spec__.name), run.__name__)()
            return
        try:
            chosen = choices()
        except ConfigError as error:
            sys.exit(f"error: {error}")
        defaults = [{f"/{group}": choice} for group, choice in chosen.items()]
        ConfigStore.instance().store(name="choices", node={"defaults": defaults})
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(main)()

    entry.run = run  # type: ignore[attr-defined]
    return entry


def arguments(run: Callable[..., None], cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Return the arguments of `run`, each checked by its annotation; `out` is created."""
    given: dict[str, Any] = {}
    for name, parameter in signature(run).parameters.items():
        if name == "out":
            out.mkdir(parents=True, exist_ok=True)
            given[name] = out
        elif name not in cfg:
            raise ConfigError(f"the stage reads {name!r}, which conf/config.yaml does not compose")
        else:
            given[name] = section(parameter.annotation, cfg[name], name)
    return given


def section(kind: Any, values: Any, name: str) -> Any:
    """Return `values` as `kind`: a dataclass, a union of dataclasses, or a plain type.

    Raises:
        ConfigError: a key is unknown, missing or mistyped, or a value is out of its range; the text names
            the key, the section and what was expected.
    """
    group = name.split(".")[0]
    where = f"conf/{group}" if (CONF / group).is_dir() else "conf/config.yaml"
    if isinstance(values, DictConfig):
        values = OmegaConf.to_container(values, resolve=True)
    if get_origin(kind) in (Union, types.UnionType):
        kinds = {option.__name__.lower(): option for option in get_args(kind)}
        values = dict(values) if isinstance(values, Mapping) else {}
        chosen = values.pop("kind", None)
        if chosen not in kinds:
            raise ConfigError(f"{where}: {name}.kind is {chosen!r}; it must be one of {', '.join(kinds)}")
        kind = kinds[chosen]
    if not is_dataclass(kind):
        if not isinstance(values, kind):
            raise ConfigError(f"{where}: {name} must be {kind.__name__}, not {values!r}")
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {name} must hold keys, not {values!r}")
    missing = sorted({field.name for field in fields(kind)} - values.keys())
    unknown = sorted(values.keys() - {field.name for field in fields(kind)})
    if unknown:
        known = ", ".join(field.name for field in fields(kind))
        raise ConfigError(f"{where}: unknown key {name}.{unknown[0]}; known keys are {known}")
    if missing:
        raise ConfigError(f"{where}: missing key {name}.{missing[0]}")
    return _built(kind, values, name, where)


def _built(kind: Any, values: Mapping[str, Any], name: str, where: str) -> Any:
    """Return `values` as the dataclass `kind`, with the sections inside it.

    Those are built on their own: OmegaConf can't merge a list into a nested frozen dataclass.
    """
    inner = {
        field.name: section(field.type, values[field.name], f"{name}.{field.name}")
        for field in fields(kind)
        if is_dataclass(field.type)
    }
    flat = {key: value for key, value in values.items() if key not in inner}
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(kind), flat)
        plain = {key: merged[key] for key in flat}
        for key, value in plain.items():
            plain[key] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        return kind(**inner, **plain)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"{where}: {name}.{error.full_key or ''}: {text}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
