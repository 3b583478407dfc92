"""Editing one value in conf/ reruns exactly the stages that read it, over the whole dvc.yaml."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from pipeline.config import choices
from tests.closure import closure, module_file, stage_module, stages
from tests.test_structure import stage_function
from tests.untraced import untraced
from tests.workspace import git, placeholder_project

# A library of DVC warns of its own next release.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after one complete run of its stages."""
    folder = tmp_path_factory.mktemp("project")
    placeholder_project(folder)
    ran = reproduce(folder)
    assert len(ran) == len(instances())
    return folder


def reproduce(folder: Path) -> set[str]:
    """Run what is out of date and return the names of the stages that ran."""
    with untraced(), inside(folder), Repo(str(folder)) as repo:
        return {stage.addressing for stage in repo.reproduce()}


def changed(folder: Path) -> set[str]:
    """Names of the stages that DVC would run because of what they read themselves."""
    with untraced(), inside(folder), Repo(str(folder)) as repo:
        return set(repo.status())


@contextmanager
def edited(file: Path, text: str) -> Iterator[None]:
    before = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


def instances() -> dict[str, tuple[dict[str, Any], str | None]]:
    """Every stage by DVC's name of it, with its entry in dvc.yaml and its matrix item."""
    found: dict[str, tuple[dict[str, Any], str | None]] = {}
    for name, entry in stages().items():
        for item in entry.get("matrix", {}).get("method", []):
            found[f"{name}@{item}"] = (entry, item)
        if "matrix" not in entry:
            found[name] = (entry, None)
    return found


def readers(section: str, choice: str | None = None) -> set[str]:
    """Stages whose signature has `section`; of a matrix, those whose item is `choice`."""
    return {
        name
        for name, (entry, item) in instances().items()
        if module_file(stage_module(entry))
        and section in signature(stage_function(entry)).parameters
        and (section != "method" or item == choice)
    }


def another(value: Any) -> Any:
    """A value that differs from `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict) and value:
        last = list(value)[-1]
        return {**value, last: another(value[last])}
    return [*value, "another"] if isinstance(value, list) else f"{value} another"


def edits(file: Path) -> list[tuple[str, str]]:
    """The file's text after an edit of each of its keys, with the key."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [(key, yaml.safe_dump({**values, key: another(values[key])})) for key in values]


def chosen_files() -> list[tuple[str, str]]:
    methods = {item for _, item in instances().values() if item}
    return [*choices().items(), *(("method", item) for item in sorted(methods))]


@pytest.mark.parametrize(("group", "choice"), chosen_files())
def test_editing_a_value_reruns_the_stages_that_read_its_file(project: Path, group: str, choice: str) -> None:
    expected = readers(group, choice)
    assert expected, f"no stage reads conf/{group}"
    file = project / "conf" / group / f"{choice}.yaml"
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    key, text = edits(file)[-1]
    assert yaml.safe_load(text)[key] != before[key]
    with edited(file, text):
        assert changed(project) == expected


def test_editing_the_seed_reruns_the_stages_that_draw(project: Path) -> None:
    file = project / "conf" / "config.yaml"
    with edited(file, file.read_text(encoding="utf-8").replace("seed: 0", "seed: 1")):
        assert changed(project) == readers("seed")


@pytest.mark.parametrize("name", ["tables", "rotate", "reports"])
def test_moving_a_folder_reruns_the_stages_that_read_folders_and_its_writer(project: Path, name: str) -> None:
    file = project / "conf" / "config.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values["paths"][name] += "-moved"
    writers = {
        stage
        for stage, (entry, _) in instances().items()
        if f"hydra.run.dir=${{paths.{name}}}" in entry["cmd"]
    }
    assert len(writers) == 1
    with edited(file, yaml.safe_dump(values)):
        assert changed(project) == readers("paths") | writers


def test_files_that_no_stage_reads_rerun_nothing(project: Path) -> None:
    chosen = {f"{group}/{choice}" for group, choice in chosen_files()}
    files = [
        file
        for file in (project / "conf").rglob("*.yaml")
        if file.parent != project / "conf" and f"{file.parent.name}/{file.stem}" not in chosen
    ]
    assert {"logger", "preset", "trainer"} <= {file.parent.name for file in files}
    for file in [*files, project / "pipeline" / "preset.py", project / "Makefile"]:
        file.write_text(file.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")
    assert changed(project) == set()


@pytest.mark.parametrize("path", ["pipeline/config.py", "pipeline/kg/facts.py", "pipeline/embed.py"])
def test_editing_a_module_reruns_the_stages_that_import_it(project: Path, path: str) -> None:
    file = project / path
    importers = {name for name, (entry, _) in instances().items() if path in closure(stage_module(entry))}
    assert importers
    with edited(file, file.read_text(encoding="utf-8") + "\n# another line\n"):
        assert changed(project) == importers


def test_choosing_another_file_reruns_the_stages_that_read_the_group(project: Path) -> None:
    file = project / "params.yaml"
    chosen = {**yaml.safe_load(file.read_text(encoding="utf-8")), "trainer": "cpu"}
    with edited(file, yaml.safe_dump(chosen)):
        assert changed(project) == readers("trainer")


def test_a_second_run_runs_nothing_and_leaves_git_alone(project: Path) -> None:
    assert reproduce(project) == set()
    tracked = git("status", "--porcelain", "--untracked-files=no", cwd=project).split()
    assert not [name for name in tracked if name.endswith(".gitignore")]
    new = git("status", "--porcelain", "--untracked-files=all", cwd=project).splitlines()
    untracked = {line.removeprefix("?? ").split("/")[0] for line in new if line.startswith("??")}
    assert untracked <= {"dvc.lock", "reports"}, "git must ignore what the stages write, except reports/"


def test_a_run_follows_the_change_to_the_report_and_no_further(project: Path) -> None:
    """Unlike `changed`, this runs: placeholders differ after an edit, so what is downstream runs too."""
    [choice] = [choice for group, choice in choices().items() if group == "train"]
    file = project / "conf" / "train" / f"{choice}.yaml"
    _, text = edits(file)[-1]
    with edited(file, text):
        ran = reproduce(project)
        trained = {name for name in instances() if name.startswith(("train@", "evaluate@"))}
        assert ran == trained | {"report"}
        assert reproduce(project) == set()
