"""The shape of the code: who imports whom, how long a module is, and that dvc.yaml says what stages read."""

import ast
import importlib
import re
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import Parameter, getsource, signature
from pathlib import Path
from textwrap import dedent
from typing import Any, Union, get_args, get_origin

import pytest
import yaml

from pipeline.config import CONF, choices, groups, options, section
from tests.closure import ROOT, closure, code, imports, module_file, stage_module, stages, tree, write, wrong

PIPELINE = ROOT / "pipeline"
MODULES = sorted(file.relative_to(ROOT).as_posix() for file in PIPELINE.rglob("*.py"))
LAYERS = {
    "blocks": 0,
    "config": 0,
    "mapping": 0,
    "packages": 0,
    "place": 0,
    "processes": 0,
    "ray": 0,
    "shapes": 0,
    "together": 0,
    "tracking": 0,
    "trainer": 0,
    "weights": 0,
    "kg": 1,
    "memory": 2,
    "cluster": 3,
    "model": 3,
    "longcontext": 3,
    "evaluation": 4,
}
"""Height of each library; whatever else stands in pipeline/ is a stage or a command, above all of these."""

TOP = 5
BESIDE_STAGES = {"serve", "benchmarks", "reporting"}
"""Packages that stages may import though they stand as high."""

COMMANDS = {
    "pipeline.preset",
    "pipeline.ask",
    "pipeline.cluster",
    "pipeline.benchmark",
    "pipeline.memory",
    "pipeline.repro",
    "pipeline.trial",
}
"""Modules to run that are no stage of the DAG."""

MEASUREMENTS = (
    "pipeline.benchmarks.ablation",
    "pipeline.benchmarks.asof",
    "pipeline.benchmarks.editing",
    "pipeline.benchmarks.fetching",
    "pipeline.benchmarks.foldin",
    "pipeline.benchmarks.footprint",
    "pipeline.benchmarks.grounding",
    "pipeline.benchmarks.injection",
    "pipeline.benchmarks.longcontext",
    "pipeline.benchmarks.memory_scale",
    "pipeline.benchmarks.pairing",
    "pipeline.benchmarks.perplexity",
    "pipeline.benchmarks.pruning",
    "pipeline.benchmarks.recall",
    "pipeline.benchmarks.recall_scale",
    "pipeline.benchmarks.refresh",
    "pipeline.benchmarks.relevance",
    "pipeline.benchmarks.robustness",
    "pipeline.benchmarks.rotate_scale",
    "pipeline.benchmarks.scaling",
    "pipeline.benchmarks.serving",
    "pipeline.benchmarks.speed",
    "pipeline.benchmarks.streams",
    "pipeline.benchmarks.timeline",
    "pipeline.benchmarks.updates",
    "pipeline.benchmarks.variants",
    "pipeline.serve.serve",
    "pipeline.trial",
)
"""Commands outside the DAG that take sections as a stage does."""

CONFIG_KEYS = {"seed", "paths"}
"""Sections that stand in conf/config.yaml itself."""

UNTRACKED = {
    "blocks",
    "logger",
    "ablation",
    "asof",
    "editing",
    "fetching",
    "foldin",
    "footprint",
    "grounding",
    "injection",
    "pairing",
    "perplexity",
    "pruning",
    "recall",
    "recall_scale",
    "refresh",
    "relevance",
    "robustness",
    "rotate_scale",
    "scaling",
    "serve",
    "serving",
    "speed",
    "streams",
    "timeline",
    "trial",
    "memory_scale",
    "updates",
    "variants",
}
"""Sections that change no result of the DAG; no stage of dvc.yaml tracks them."""

OF_CHOICES = {"preset", "sweep", "campaign", "hydra"}
"""Folders of conf/ that choose among the others, or set values of several."""

ITEM = {"method"}
"""Sections whose choice is the matrix item instead of a line of params.yaml."""


def room(module: str) -> str:
    return module.removesuffix(".py").replace("/", ".").split(".")[1]


def height(module: str) -> int:
    return LAYERS.get(room(module), TOP)


@pytest.mark.parametrize("path", [path for path in MODULES if path != "pipeline/__init__.py"])
def test_imports_run_downward(path: str) -> None:
    for name in imports(ROOT / path):
        if name == "pipeline" or room(name) == room(path):
            continue
        beside = room(name) in BESIDE_STAGES and height(path) == TOP
        below = height(name) < height(path) or height(name) == height(path) == 0
        assert below or beside, f"{path} imports {name}: see the order of rooms in tests/test_structure.py"


@pytest.mark.parametrize("path", MODULES)
def test_a_module_has_at_most_300_lines_and_says_what_it_is(path: str) -> None:
    file = ROOT / path
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{path} has {lines} lines: it holds more than one idea"
    assert not lines or ast.get_docstring(tree(file)), f"{path} starts without a docstring"


def test_every_stage_of_the_dag_is_a_module_that_runs() -> None:
    for name, entry in stages().items():
        file = module_file(stage_module(entry))
        assert file is not None, f"stage {name} of dvc.yaml runs {stage_module(entry)}, which is no module"
        source = file.read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in source, f"{file} can't be run: it has no __main__ part"
        assert "\n@stage\n" in source, f"{file} has no function under @stage"


def test_every_stage_module_is_in_the_dag() -> None:
    run = {stage_module(entry) for entry in stages().values()} | COMMANDS
    for path in MODULES:
        source = (ROOT / path).read_text(encoding="utf-8")
        if path.count("/") == 1 and "\n@stage\n" in source:
            assert path.removesuffix(".py").replace("/", ".") in run, f"{path} is in no stage of dvc.yaml"


def written_stages() -> dict[str, dict[str, Any]]:
    """Stages whose module exists; the test above names those without."""
    return {name: entry for name, entry in stages().items() if module_file(stage_module(entry))}


def stage_function(entry: dict[str, Any]) -> Any:
    name = stage_module(entry)
    return getattr(importlib.import_module(name), name.rsplit(".", 1)[1]).run


def expected_params(parameters: list[str], matrix: set[str]) -> list[Any]:
    """The `params` of a stage with these sections, in the order in which dvc.yaml has them."""
    keys = sorted(CONFIG_KEYS & set(parameters))
    files = sorted(set(parameters) - CONFIG_KEYS - UNTRACKED - {"out"})
    chosen = {name: f"${{item.{name}}}" if name in matrix else f"${{{name}}}" for name in files}
    own = [{"conf/config.yaml": keys}] if keys else []
    return own + [{f"conf/{name}/{chosen[name]}.yaml": None} for name in files]


def lines_of(params: list[Any]) -> str:
    written = []
    for entry in params:
        [(name, keys)] = entry.items()
        written.append(f"      - {name}:" + (f" [{', '.join(keys)}]" if keys else ""))
    return "\n".join(written)


@pytest.mark.parametrize("name", stages())
def test_params_are_the_sections_of_the_signature(name: str) -> None:
    if name not in written_stages():
        pytest.skip(f"the module of stage {name} is not there; another test fails for it")
    entry = stages()[name]
    parameters = list(signature(stage_function(entry)).parameters)
    right = expected_params(parameters, set(entry.get("matrix", {})))
    assert entry["params"] == right, f"stage {name}: put into dvc.yaml\n    params:\n{lines_of(right)}"


@pytest.mark.parametrize("name", stages())
def test_the_command_names_the_choices_that_the_stage_reads_and_no_other(name: str) -> None:
    entry = stages()[name]
    tracked = {next(iter(file)) for file in entry["params"]} - {"conf/config.yaml"}
    right = {f"{path.split('/')[1]}={path.split('/')[2].removesuffix('.yaml')}" for path in tracked}
    words = entry["cmd"].split()
    named = {word for word in words if "=" in word and not word.startswith("hydra.")}
    assert named == right, f"stage {name}: the command must name {sorted(right)}"
    [out] = [word.removeprefix("hydra.run.dir=") for word in words if word.startswith("hydra.run.dir=")]
    assert all(str(next(iter(o)) if isinstance(o, dict) else o).startswith(out) for o in entry["outs"])


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_modules_that_the_stage_imports(name: str) -> None:
    if name not in written_stages():
        pytest.skip(f"the module of stage {name} is not there; another test fails for it")
    right = closure(stage_module(stages()[name]))
    text = "\n".join(f"      - {path}" for path in right)
    assert code(stages()[name]) == right, (
        f"stage {name}: run `python -m tests.closure --write`, or put under its deps\n{text}"
    )


def paths_read(file: Path) -> set[str]:
    """Names of the folders that a module takes from a variable `paths`."""
    return {
        node.attr
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "paths"
    }


def test_folders_that_a_stage_reads_are_its_deps() -> None:
    """A stage run by two entries of dvc.yaml (evaluate, baseline) may read less in one of them."""
    declared: dict[str, set[str]] = {}
    read: dict[str, set[str]] = {}
    for entry in written_stages().values():
        module = stage_module(entry)
        texts = [dep for dep in entry["deps"] if dep.startswith("${")] + [entry["cmd"]]
        declared.setdefault(module, set()).update(re.findall(r"\$\{paths\.(\w+)\}", " ".join(texts)))
        read[module] = set().union(
            *(paths_read(ROOT / path) for path in closure(module) if path.endswith(".py")),
        )
    for module, folders in read.items():
        assert folders <= declared[module], (
            f"{module} reads {sorted(folders - declared[module])} of paths; add ${{paths.…}} to its deps"
        )


def test_the_closure_follows_packages_relative_imports_and_resources(tmp_path: Path) -> None:
    package = tmp_path / "pipeline" / "kg"
    package.mkdir(parents=True)
    (tmp_path / "pipeline" / "__init__.py").write_text('"""Only a docstring."""\n')
    (package / "__init__.py").write_text('"""A package."""\nVALUE = 1\n')
    (package / "nouns.tsv").write_text("a\tb\n")
    (package / "nouns.py").write_text('"""Nouns."""\nFILE = "nouns.tsv"\n')
    (package / "unrelated.py").write_text('"""Not imported."""\nVALUE = 1\n')
    (tmp_path / "pipeline" / "do.py").write_text(
        '"""Do."""\ndef do():\n    from .kg.nouns import FILE\n    return FILE\n'
    )
    right = ["pipeline/do.py", "pipeline/kg/__init__.py", "pipeline/kg/nouns.py", "pipeline/kg/nouns.tsv"]
    assert closure("pipeline.do", tmp_path) == right

    (tmp_path / "dvc.yaml").write_text(
        dedent("""\
            # stays
            stages:
              do:
                cmd: python -m pipeline.do
                deps:
                  - pipeline/do.py
                  - pipeline/gone.py
                  - ${paths.tables}
            """)
    )
    assert wrong(tmp_path) == {"do": right}
    write(tmp_path)
    assert wrong(tmp_path) == {}
    text = (tmp_path / "dvc.yaml").read_text()
    assert text.startswith("# stays")
    assert "gone" not in text
    assert "- ${paths.tables}" in text


def kinds(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def sections() -> dict[str, Any]:
    """Annotation of each section that some stage reads; two stages that read one must agree on it."""
    found: dict[str, Any] = {}
    measured = {
        name: getattr(importlib.import_module(name), name.rsplit(".", 1)[1]).run for name in MEASUREMENTS
    }
    runs = {name: stage_function(entry) for name, entry in written_stages().items()} | measured
    for name, run in runs.items():
        for parameter in signature(run).parameters.values():
            if parameter.name == "out":
                continue
            assert parameter.annotation is not Parameter.empty, f"{name}: {parameter.name} lacks a type"
            known = found.setdefault(parameter.name, parameter.annotation)
            if parameter.name not in ITEM:
                assert known == parameter.annotation, f"{name} and another stage disagree on {parameter.name}"
    return found


@cache
def accepts() -> dict[str, list[Any]]:
    """Every class that some stage takes for a section (train takes fewer methods than evaluate)."""
    found: dict[str, list[Any]] = {name: kinds(annotation) for name, annotation in sections().items()}
    for entry in written_stages().values():
        for parameter in signature(stage_function(entry)).parameters.values():
            if parameter.name in ITEM:
                found[parameter.name] += kinds(parameter.annotation)
    return found


def nested(kind: Any) -> Iterator[Any]:
    yield kind
    for field in fields(kind):
        for inner in kinds(field.type):
            if is_dataclass(inner):
                yield from nested(inner)


def test_every_field_of_a_section_is_explained_and_has_no_default() -> None:
    for name, options_of in accepts().items():
        for top in filter(is_dataclass, options_of):
            for kind in nested(top):
                assert kind.__dataclass_params__.frozen, f"{kind.__name__} ({name}) must be frozen"
                [node] = ast.parse(dedent(getsource(kind))).body
                assert isinstance(node, ast.ClassDef)
                for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
                    if not isinstance(statement, ast.AnnAssign):
                        continue
                    field = f"{kind.__name__}.{ast.unparse(statement.target)}"
                    explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    assert explained, f"{field} has no docstring below it"
                    assert statement.value is None, f"{field} has a default: values live in conf/"


CONF_FILES = [(group, choice) for group in groups() if group not in OF_CHOICES for choice in options(group)]


@pytest.mark.parametrize(("group", "choice"), CONF_FILES)
def test_every_file_of_conf_is_what_its_section_takes(
    group: str, choice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = accepts()
    if group not in known:
        pytest.skip(f"no stage that is there reads {group}; test_every_group_is_read fails for it")
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    from omegaconf import OmegaConf

    values = OmegaConf.load(CONF / group / f"{choice}.yaml")
    annotation = Union[tuple(dict.fromkeys(known[group]))]  # noqa: UP007 - built from a list
    section(annotation, values, group)


def test_every_group_is_read_and_chosen() -> None:
    read = set(accepts())
    on_disk = set(groups()) - OF_CHOICES
    assert on_disk <= read, f"no stage reads conf/{sorted(on_disk - read)}"
    chosen = set(choices())
    assert on_disk - UNTRACKED - ITEM == chosen, "params.yaml must choose one file of each folder of conf/"


def test_every_kind_of_a_union_has_a_file() -> None:
    for group, options_of in accepts().items():
        if len(options_of) < 2:
            continue
        files = [yaml.safe_load((CONF / group / f"{choice}.yaml").read_text()) for choice in options(group)]
        used = {values["kind"] for values in files}
        offered = {option.__name__.lower() for option in options_of}
        assert offered <= used, f"conf/{group} has no file for {sorted(offered - used)}"


def test_config_yaml_holds_the_shared_sections_and_no_other() -> None:
    values = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    assert set(values) - {"defaults", "hydra"} == CONFIG_KEYS
