"""What a stage is given: its sections checked, and the same ones with and without DVC."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.config import CONF, ROOT, ConfigError, arguments, choices, options, section
from tests.test_structure import UNTRACKED
from tests.untraced import unmeasured


@dataclass(frozen=True, kw_only=True)
class Store:
    """A section with a range, a path and an optional key."""

    k: int
    """Facts."""
    weight: float
    """Share."""
    folder: Path
    """Where."""
    note: str | None
    """Anything."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"store.k must be at least 1, not {self.k}")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One kind of a union."""

    k: int
    """Facts."""


@dataclass(frozen=True, kw_only=True)
class Factored:
    """Another kind of it."""

    entities: int
    """Entities."""


GOOD: dict[str, Any] = {"k": 3, "weight": 0.5, "folder": "data", "note": None}


def test_a_section_becomes_its_dataclass() -> None:
    assert section(Store, GOOD, "store") == Store(k=3, weight=0.5, folder=Path("data"), note=None)
    assert section(Store, OmegaConf.create(GOOD), "store").k == 3


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({**GOOD, "n": 1}, "unknown key store.n; known keys are k, weight, folder, note"),
        ({key: GOOD[key] for key in GOOD if key != "weight"}, "missing key store.weight"),
        ({**GOOD, "k": "three"}, "store.k: .*'three'.*Integer"),
        ({**GOOD, "weight": "heavy"}, "store.weight: .*'heavy'.*Float"),
        ({**GOOD, "k": None}, "store.k: "),
        ({**GOOD, "k": 0}, "store.k must be at least 1, not 0"),
        ([1, 2], "store must hold keys, not"),
        (None, "store must hold keys, not None"),
    ],
)
def test_a_wrong_section_is_an_error_that_names_the_key(values: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        section(Store, values, "store")


def test_an_error_names_the_folder_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^conf/trainer: missing key trainer\.k"):
        section(Slot, {}, "trainer")
    with pytest.raises(ConfigError, match=r"^conf/config\.yaml: seed must be int, not 'x'"):
        section(int, "x", "seed")


def test_kind_picks_the_class_of_a_union() -> None:
    assert section(Slot | Factored, {"kind": "factored", "entities": 2}, "memory") == Factored(entities=2)
    assert section(Slot | Factored, {"kind": "slot", "k": 2}, "memory") == Slot(k=2)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"kind": "slots", "k": 2}, "memory.kind is 'slots'; it must be one of slot, factored"),
        ({"k": 2}, "memory.kind is None; it must be one of slot, factored"),
        ({"kind": "factored", "k": 2}, "unknown key memory.k; known keys are entities"),
        ("slot", "memory.kind is None"),
    ],
)
def test_a_wrong_kind_is_an_error_that_lists_the_kinds(values: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        section(Slot | Factored, values, "memory")


def test_arguments_follow_the_signature_and_make_the_output_folder(tmp_path: Path) -> None:
    def act(store: Store, seed: int, out: Path) -> None:
        raise NotImplementedError

    composed = OmegaConf.create({"store": GOOD, "seed": 4, "other": 1})
    given = arguments(act, composed, tmp_path / "deep" / "out")
    assert given == {
        "store": section(Store, GOOD, "store"),
        "seed": 4,
        "out": tmp_path / "deep" / "out",
    }
    assert given["out"].is_dir()
    with pytest.raises(
        ConfigError, match=r"the stage reads 'seed', which conf/config\.yaml does not compose"
    ):
        arguments(act, OmegaConf.create({"store": GOOD}), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nogroup: x\n", r"params\.yaml: no group 'nogroup'; the groups are .*trainer"),
        ("trainer: tpu\n", r"params\.yaml: no 'tpu' in conf/trainer; there is auto, cpu, gpu"),
        ("- trainer\n", r"params\.yaml: must hold `group: choice` lines, found a list"),
    ],
)
def test_wrong_choices_are_errors_that_list_the_right_ones(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        choices(file)


def test_missing_choices_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml: not found; it lists one choice per folder"):
        choices(tmp_path / "params.yaml")
    assert choices()["trainer"] in options("trainer")


PROBE = '''\
"""A stage that writes down what it was given."""
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError, stage
from pipeline.tracking import Logger


@dataclass(frozen=True, kw_only=True)
class Store:
    """A section."""

    name: str
    """Its choice."""
    k: int
    """Facts."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"store.k must be at least 1, not {self.k}")


@stage
def probe(store: Store, logger: Logger, seed: int, out: Path) -> None:
    """Write the arguments."""
    if seed == 13:
        raise UserError("seed 13: unlucky; take another")
    text = json.dumps({"store": store.name, "k": store.k, "logger": logger.mode, "seed": seed})
    (out / "given.json").write_text(text)


if __name__ == "__main__":
    probe()
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real configuration code, two groups and a stage that shows its arguments."""
    for name in ("__init__.py", "config.py", "tracking.py"):
        (tmp_path / "pipeline").mkdir(exist_ok=True)
        shutil.copy(ROOT / "pipeline" / name, tmp_path / "pipeline" / name)
    (tmp_path / "pipeline" / "probe.py").write_text(PROBE, encoding="utf-8")
    for group in (*UNTRACKED, "sweep"):
        shutil.copytree(CONF / group, tmp_path / "conf" / group)
    shared = (CONF / "config.yaml").read_text(encoding="utf-8")
    assert "  - method: ours\n" in shared
    (tmp_path / "conf" / "config.yaml").write_text(shared.replace("  - method: ours\n", ""), encoding="utf-8")
    (tmp_path / "conf" / "store").mkdir()
    for name in ("flat", "tree"):
        (tmp_path / "conf" / "store" / f"{name}.yaml").write_text(f"name: {name}\nk: 5\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("store: tree\n", encoding="utf-8")
    return tmp_path


def run(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the probe as a user would; its pipeline/ is a copy, of which no coverage is measured."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.probe", *words],
        cwd=project,
        env={**unmeasured(), **environment},
        capture_output=True,
        text=True,
    )


def given(folder: Path) -> Any:
    return yaml.safe_load((folder / "given.json").read_text())


def test_a_stage_takes_its_choices_from_params_and_the_command_line_overrides_them(project: Path) -> None:
    """DVC's command names the choice, a bare command leaves it to params.yaml; both must agree."""
    run(project, "hydra.run.dir=bare").check_returncode()
    run(project, "store=tree", "hydra.run.dir=named").check_returncode()
    assert given(project / "bare") == given(project / "named")
    assert given(project / "bare") == {"store": "tree", "k": 5, "logger": "disabled", "seed": 0}
    assert [file.name for file in (project / "bare").iterdir()] == ["given.json"]

    run(project, "store=flat", "seed=2", KG_LOGGER="offline").check_returncode()
    assert given(project / "outputs" / "probe") == {"store": "flat", "k": 5, "logger": "offline", "seed": 2}


def test_every_job_of_a_multirun_has_a_folder_named_by_its_overrides(project: Path) -> None:
    run(project, "-m", "seed=1,2", "store.k=7").check_returncode()
    folders = {file.parent.name: given(file.parent) for file in project.glob("multirun/probe/*/given.json")}
    assert folders.keys() == {"seed=1,store.k=7", "seed=2,store.k=7"}
    assert [(job["seed"], job["k"]) for job in folders.values()] in ([(1, 7), (2, 7)], [(2, 7), (1, 7)])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["store.k=0"], "error: conf/store: store.k must be at least 1, not 0"),
        (["store.k=many"], "error: conf/store: store.k: "),
        (["+store.n=2"], "error: conf/store: unknown key store.n; known keys are name, k"),
        (["~store.k"], "error: conf/store: missing key store.k"),
        (["seed=13"], "error: seed 13: unlucky; take another"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_one_line(project: Path, words: list[str], text: str) -> None:
    done = run(project, *words)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_choices_are_one_line(project: Path) -> None:
    (project / "params.yaml").write_text("store: trie\n", encoding="utf-8")
    done = run(project)
    assert done.returncode == 1
    assert "no 'trie' in conf/store; there is flat, tree" in done.stderr
    assert "Traceback" not in done.stderr
