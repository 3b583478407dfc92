"""The end of a sweep: its jobs side by side."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import open_dict

from pipeline.config import CONF, ROOT, UserError, options
from pipeline.reporting.sweeps import compared, differing, ended

RIGHT = {"1": [1, 1, 0, 0], "3": [1, 1, 1, 0], "5": [1, 1, 1, 1]}


def job(folder: Path, overrides: dict[str, str], right: list[int]) -> None:
    """Write what `pipeline.trial` leaves."""
    folder.mkdir(parents=True)
    rows = {"question": range(len(right)), "split": "valid", "em": [float(em) for em in right]}
    pd.DataFrame(rows).to_parquet(folder / "answers.parquet")
    mean = sum(right) / len(right)
    em = {"mean": mean, "low": mean, "high": mean}
    metrics = {"splits": {"valid": {"em": em, "n": len(right), "acc@1": None}}}
    metrics |= {"refusal_auroc": None, "seconds_per_question": 0.1}
    told: dict[str, Any] = {
        "command": "python -m pipeline.trial",
        "commit": "c",
        "versions": {},
        "machine": {},
    }
    told |= {"seeds": [0], "overrides": overrides, "metrics": metrics}
    (folder / "trial.json").write_text(json.dumps(told), encoding="utf-8")


def sweep(folder: Path, methods: tuple[str, ...] = ("ours",)) -> Path:
    for method in methods:
        for value, right in RIGHT.items():
            job(folder / f"{method}-{value}", {"memory.k": value, "method": method, "seed": "0"}, right)
    (folder / "about.json").write_text('{"about": "How many?", "over": "memory.k"}', encoding="utf-8")
    return folder


def test_a_table_a_figure_and_a_sentence_come_of_a_sweep(tmp_path: Path) -> None:
    table = compared(sweep(tmp_path / "k"), tmp_path / "reports")
    assert table == json.loads((tmp_path / "reports" / "k.json").read_text(encoding="utf-8"))
    assert (tmp_path / "reports" / "k.png").stat().st_size > 1000
    assert [entry["values"] for entry in table["jobs"]] == [{"memory.k": value} for value in RIGHT]
    assert [entry["splits"]["valid"]["em"]["mean"] for entry in table["jobs"]] == [0.5, 0.75, 1.0]
    [said] = table["says"]
    assert said.startswith("valid: over memory.k, EM is 50.0 % at 1 to 100.0 % at 5; the largest difference")
    assert "of 3 values is 50.0 [" in said


def test_jobs_that_were_started_one_by_one_are_what_the_file_of_the_sweep_says(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "k")
    (folder / "about.json").unlink()
    table = compared(folder, tmp_path)
    assert (table["about"], table["over"]) == ("How many facts need to be read?", "memory.k")
    other = folder.rename(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no about\.json, and conf/sweep no nothing\.yaml"):
        compared(other, tmp_path)


def test_every_other_key_makes_a_line(tmp_path: Path) -> None:
    table = compared(sweep(tmp_path / "k", ("ours", "rag")), tmp_path)
    assert table["lines"] == ["method"]
    assert [said.split(":")[0] for said in table["says"]] == ["valid, ours", "valid, rag"]


def test_a_folder_without_jobs_or_of_one_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no job that ended"):
        compared(tmp_path, tmp_path)
    folder = tmp_path / "one"
    job(folder / "a", {"memory.k": "1"}, [1])
    (folder / "about.json").write_text('{"about": "?", "over": "memory.k"}', encoding="utf-8")
    assert differing(ended(folder)) == set()
    with pytest.raises(UserError, match=r"all jobs have the same memory\.k"):
        compared(folder, tmp_path)


@pytest.mark.parametrize("name", options("sweep"))
def test_every_file_of_conf_sweep_lists_jobs_of_keys_that_there_are(name: str) -> None:
    told = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text(encoding="utf-8"))
    params = told["hydra"]["sweeper"]["params"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        from hydra.core.config_store import ConfigStore

        from pipeline.config import choices

        defaults = [{f"/{group}": choice} for group, choice in choices().items()]
        ConfigStore.instance().store(name="choices", node={"defaults": defaults})
        # What Optuna searches is a range of values, of which none comes first.
        listed = {key: values for key, values in params.items() if "(" not in values}
        first = [f"{key}={values.split(',')[0]}" for key, values in listed.items()]
        config = compose("config", [f"sweep={name}", *first], return_hydra_config=True)
    with open_dict(config):
        callback = instantiate(config.hydra.callbacks.compared)
    assert callback.over in params
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.hydra.sweep.dir == f"multirun/{name}"
    assert (ROOT / "pipeline" / "trial.py").is_file()
    assert config.trial.split in config.evaluate.splits


def test_a_new_sweep_forgets_the_jobs_of_the_last_one(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    from pipeline.reporting.sweeps import Compared

    folder = sweep(tmp_path / "k")
    Compared("?", "memory.k").on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    with pytest.raises(UserError, match="no job"):
        ended(folder)
