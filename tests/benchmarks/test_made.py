"""Tables of a data set that a command names are made by the stages, each with its own folder."""

from pathlib import Path

import pytest

from pipeline.benchmarks.made import asks, commands, key, made, run
from pipeline.config import UserError
from tests.kg.graphs import paths

CHOSEN = {"data": "pat", "splits": "default", "synthesis": "default", "lm": "smollm2", "encoder": "minilm"}


def test_only_a_named_data_set_is_made(tmp_path: Path) -> None:
    assert asks(["data=pat", "timeline.questions=3"])
    assert not asks(["timeline.questions=3", "data.folder=x"])
    assert not asks(["data=pat", "paths.tables=mine"])
    assert made(tmp_path, paths(tmp_path)) == paths(tmp_path), "without a command line"
    assert not any(tmp_path.iterdir())


def test_other_data_settings_get_another_folder() -> None:
    plain = key(["data=pat"], CHOSEN)
    assert plain == key(["timeline.questions=3", "data=pat", "memory.k=1"], CHOSEN)
    assert plain != key(["data=pat", "data.folder=x"], CHOSEN)
    assert plain != key(["data=pat"], CHOSEN | {"data": "templama"})


def test_stages_write_below_the_folder_with_the_settings_of_the_command(tmp_path: Path) -> None:
    told = commands(tmp_path, ["data=pat", "trainer=cpu", "paths.adapters=mine", "hydra.run.dir=there"])
    assert list(told) == ["ingest", "synthesize", "index"]
    for words, folder in zip(told.values(), ("tables", "kv", "index"), strict=True):
        assert words[:2] == ["data=pat", "trainer=cpu"]
        assert words[-1] == f"hydra.run.dir={tmp_path / folder}"
        assert f"paths.tables={tmp_path / 'tables'}" in words
        assert "paths.adapters=mine" not in words


def test_the_words_of_a_stage_that_fails_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    words = commands(tmp_path / "made", ["data=pat"])["ingest"]
    with pytest.raises(UserError, match=r"the stage ingest failed: error: .*pat_questions"):
        run("ingest", words)
