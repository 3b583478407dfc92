"""Presets list choices that exist, and writing one keeps the file's head."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config import CONF, PARAMS, ConfigError, UserError, choices, options
from pipeline.preset import preset

HEAD = "# First line.\n# Second line.\n"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(HEAD + PARAMS.read_text(encoding="utf-8"), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", options("preset"))
def test_a_preset_chooses_one_existing_file_for_every_group(name: str, params: Path) -> None:
    listed = yaml.safe_load((CONF / "preset" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert listed.keys() == choices().keys()
    preset(name, params)
    assert choices(params) == listed


def test_the_repository_holds_the_laptop_preset(params: Path) -> None:
    assert choices() == yaml.safe_load((CONF / "preset" / "laptop.yaml").read_text(encoding="utf-8"))
    assert preset("laptop", params) == []


def test_writing_a_preset_keeps_the_comment_and_tells_what_changed(params: Path) -> None:
    changed = preset("h100", params)
    text = params.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    assert f"data: {choices()['data']} → {choices(params)['data']}" in changed
    assert preset("h100", params) == []
    assert preset("laptop", params)
    assert choices(params) == choices()


def test_an_unknown_preset_is_an_error_that_lists_the_presets(params: Path) -> None:
    before = params.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"no preset 'labtop'; there is .*h100.*laptop"):
        preset("labtop", params)
    assert params.read_text(encoding="utf-8") == before


def test_params_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        preset("laptop", tmp_path / "params.yaml")


def test_the_command_names_the_presets_when_it_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.preset", "nope"], capture_output=True, text=True, cwd=CONF.parent
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no preset 'nope'; there is")
    assert "Traceback" not in done.stderr
