"""What the plans of the project tell their commands is what the configuration knows."""

from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pipeline.benchmark import COMMANDS
from pipeline.benchmarks.plan import Job, plan
from pipeline.config import CONF, choices, options, section
from pipeline.evaluation.editors import Editing
from pipeline.evaluation.systems import Method
from pipeline.evaluation.variants import NAMELESS
from tests.untraced import untraced


def command(job: Job) -> tuple[Any, list[str]]:
    """Return the stage that a job runs, and its overrides."""
    _, _, module, *words = job.words
    if module == "pipeline.benchmark":
        return COMMANDS[words[0]], words[1:]
    return getattr(import_module(module), module.split(".")[-1]), words


@cache
def told_of(name: str) -> list[tuple[Any, list[str]]]:
    """Return the stages that a plan runs with their overrides, folders aside."""
    jobs = plan(name, Path("root"))
    found = [command(job) for job in jobs if "pipeline.reporting.sweeps" not in job.words]
    return [(stage, [w for w in words if not w.startswith(("paths.", "hydra."))]) for stage, words in found]


@pytest.mark.parametrize("name", options("campaign"))
def test_every_command_of_a_plan_has_values_that_its_sections_take(name: str) -> None:
    defaults = [{f"/{group}": choice} for group, choice in choices().items()]
    ConfigStore.instance().store(name="choices", node={"defaults": defaults})
    alike = {}  # one of those that set the same keys
    for stage, told in told_of(name):
        keys = [word if word.startswith("sweep=") else word.split("=")[0] for word in told]
        alike[stage.__name__, *keys] = stage, told
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for stage, told in alike.values():
            with untraced():
                cfg = compose("config", told)
            for key, parameter in signature(stage.run).parameters.items():
                if key != "out":
                    section(parameter.annotation, cfg[key], key)


@pytest.mark.parametrize("name", options("campaign"))
def test_every_entry_of_a_plan_is_a_method_with_values_that_it_has(name: str) -> None:
    words = [word.partition("=") for _, told in told_of(name) for word in told]
    for value in {value for key, _, value in words if key.endswith(".entries")}:
        [entry] = OmegaConf.create({"given": OmegaConf.create(value)}).given
        method, _, changes = entry.partition(":")
        values = OmegaConf.load(CONF / "method" / f"{method}.yaml")
        merged = OmegaConf.merge(values, OmegaConf.from_dotlist([c for c in changes.split(",") if c]))
        if method != NAMELESS:
            section(Method | Editing, merged, "method")
