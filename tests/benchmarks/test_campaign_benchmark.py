"""Plans of trivial commands: what is started when, what is told of it, and that nothing finished is lost."""

import json
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.campaign import archived, main, wanted
from pipeline.benchmarks.dispatch import Campaign
from pipeline.benchmarks.plan import jobs, plan
from pipeline.config import UserError, options

TOUCH = "python -c \"import sys; open(sys.argv[1], 'w').write('{method}')\" {out}/made.json"


def told(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"settings": {"touch": TOUCH}, "jobs": list(entries)}


def campaign(entries: dict[str, Any], root: Path, most: int = 2, gpus: int = 0) -> Campaign:
    return Campaign(jobs(entries, root), root, most, gpus, 1, "tests")


def states(ended: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in ended["jobs"]}


TRAIN = {"name": "train/{seed}/{method}", "over": {"seed": [1, 0], "method": ["a", "b"]}, "run": "{touch}"}
ASK = {"name": "ask/{method}", "over": {"method": ["a", "b"]}, "run": "{touch}"}


def test_a_plan_is_its_commands_in_the_order_of_seeds(tmp_path: Path) -> None:
    also = {
        "also": {"method": {"b": "--more"}},
        "called": {"a": "a:k=5"},
        "run": "python {entry} {seed} {out}",
    }
    found = jobs(told(TRAIN | also, ASK | {"needs": ["train/0/{method}"]}), tmp_path)
    names = [job.name for job in found]
    assert names == ["train/0/a", "train/0/b", "ask/a", "ask/b", "train/1/a", "train/1/b"]
    assert found[0].command == f"python a:k=5 0 {tmp_path}/train/0/a"
    assert found[1].words == ("python", "b", "0", f"{tmp_path}/train/0/b", "--more")
    assert found[2].needs == ("train/0/a",)
    assert [job.name for job in wanted(found, ["ask/b"])] == ["train/0/b", "ask/b"]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([ASK | {"need": []}], "unknown key need of ask/{method}"),
        ([ASK, ASK], "two jobs are called ask/a"),
        ([ASK | {"needs": ["train/0/a"]}], "ask/a needs train/0/a, which is no job"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(entries: list[Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        jobs(told(*entries), tmp_path)


def test_jobs_wait_for_what_they_need_and_leave_how_they_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_COMMIT", "0123abc")
    reads = 'python -c "import sys; print(open(sys.argv[1]).read())" {root}/train/1/{method}/made.json'
    entries = told(ASK | {"run": reads, "needs": ["train/1/{method}"]}, TRAIN | {"writes": ["made.json"]})
    ended = campaign(entries, tmp_path).run(60)
    assert set(states(ended).values()) == {"done"}
    assert (tmp_path / "ask/b/log.txt").read_text() == "b\n"
    about = json.loads((tmp_path / "train/1/a/provenance.json").read_text())
    assert {"command", "commit", "versions", "machine", "seeds", "seconds"} <= about.keys()
    assert (about["commit"], about["seeds"]) == ("0123abc", [1])
    assert about["command"].startswith("python -c ")
    assert json.loads((tmp_path / "campaign-tests.json").read_text())["states"] == {"done": 6}


def test_a_job_that_fails_is_told_with_its_last_lines_and_holds_up_nobody_else(tmp_path: Path) -> None:
    says = "print('half', end=chr(13)); print('whole'); raise SystemExit('error: no such thing')"
    fails = {"name": "bad", "run": f'python -c "{says}"'}
    silent = {"name": "silent", "run": "python -c pass", "writes": ["made.json"]}
    ask = ASK | {"over": {"method": ["a"]}, "needs": ["bad"]}
    fine = {"name": "fine", "run": "python -c pass"}
    lacking = fine | {"name": "lacking", "files": ["{root}/nowhere"]}
    ended = campaign(told(fails, ask, silent, lacking, fine), tmp_path).run(60)
    assert states(ended) == {
        "bad": "failed, ended with 1",
        "ask/a": "not started",
        "silent": f"failed, {tmp_path}/silent/made.json was not written",
        "lacking": f"lacks {tmp_path}/nowhere",
        "fine": "done",
    }
    rows = {row["name"]: row for row in ended["jobs"]}
    assert rows["bad"]["last"] == ["whole", "error: no such thing"]
    assert rows["ask/a"]["waits for"] == ["bad"]


def test_at_the_deadline_jobs_are_ended_and_a_second_call_goes_on(
    tmp_path: Path,
) -> None:
    counts = "python -c \"import sys; open(sys.argv[1], 'a').write('x')\" {root}/counted"
    sleeps = (
        'python -c "import sys, time; from pathlib import Path; '
        'Path(sys.argv[1]).exists() or time.sleep(60)" {root}/rested'
    )
    entries = told(
        {"name": "quick", "run": counts},
        {"name": "slow", "run": sleeps, "needs": ["quick"]},
        {"name": "long", "run": "python -c pass", "minutes": 30},
    )
    began = time.monotonic()
    ended = campaign(entries, tmp_path).run(2)
    assert time.monotonic() - began < 10
    assert states(ended) == {"quick": "done", "slow": "ended at the deadline", "long": "not started"}
    (tmp_path / "rested").touch()
    again = campaign(entries, tmp_path)
    assert again.states["quick"] == "done"
    last = again.run(60 * 60)
    assert states(last) == {"quick": "done", "slow": "done", "long": "done"}
    assert last["jobs"][0]["seconds"] == ended["jobs"][0]["seconds"] > 0
    assert (tmp_path / "counted").read_text() == "x", "what is done is not done again"
    (tmp_path / "quick/provenance.json").unlink()
    assert campaign(entries, tmp_path).states["quick"] == "not started"


def test_what_is_brought_along_is_done(tmp_path: Path) -> None:
    job = ASK | {"over": {"method": ["a"]}, "writes": ["made.json"], "brought": True}
    assert campaign(told(job), tmp_path).states["ask/a"] == "not started"
    (tmp_path / "ask/a").mkdir(parents=True)
    (tmp_path / "ask/a/made.json").touch()
    assert campaign(told(job), tmp_path).states["ask/a"] == "done"
    assert campaign(told(job | {"brought": False}), tmp_path).states["ask/a"] == "not started"


@pytest.mark.parametrize("seen", ["", "3,5,7"])
def test_jobs_are_spread_over_devices_by_their_slots(
    seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    first, second = ("3", "5") if seen else ("0", "1")
    shows = (
        "python -c \"import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], "
        "os.environ['OMP_NUM_THREADS'], flush=True); time.sleep(1)\""
    )
    over = {"over": {"method": ["a", "b", "c"]}}
    entries = told(
        {"name": "big", "run": shows, "slots": 2}, {"name": "{method}", "run": shows, "slots": 1} | over
    )
    ended = campaign(entries, tmp_path, most=4, gpus=2).run(60)
    assert set(states(ended).values()) == {"done"}
    shown = {name: (tmp_path / name / "log.txt").read_text().split() for name in ("big", "a", "b")}
    assert shown == {"big": [first, "1"], "a": [second, "1"], "b": [second, "1"]}
    about = json.loads((tmp_path / "a/provenance.json").read_text())
    assert about["at most beside"] == 3, "the fourth had to wait for a slot"


def test_a_job_larger_than_all_slots_runs_alone(tmp_path: Path) -> None:
    ended = campaign(told({"name": "big", "run": "python -c pass", "slots": 9}), tmp_path).run(60)
    assert states(ended) == {"big": "done"}


def test_an_archive_holds_results_and_output_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    out.mkdir()
    writes = "python -c \"import os, sys; [open(p, 'wb').write(os.urandom(3000)) for p in sys.argv[1:]]\""
    entries = told(
        {"name": "one", "run": writes + " {out}/made.json {out}/adapter.safetensors {out}/last.ckpt"},
        {"name": "two", "run": writes + " {out}/made.json {out}/no/folder"},
    )
    ran = campaign(entries, root)
    ran.run(60)
    monkeypatch.setattr("pipeline.benchmarks.campaign.PART", 4096)

    def packed(weights: bool) -> set[str]:
        for part in out.iterdir():
            part.unlink()
        archived(ran, out / "all.tar.gz", weights)
        parts = sorted(out.iterdir())
        assert len(parts) > 1
        with tarfile.open(fileobj=BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
            return set(tar.getnames())

    light = {"campaign-tests.json", "one/log.txt", "one/made.json", "one/provenance.json", "two/log.txt"}
    assert packed(False) == light
    assert packed(True) == {*light, "one/adapter.safetensors"}


@pytest.mark.parametrize("name", options("campaign"))
def test_every_plan_of_the_project_holds_together(name: str, tmp_path: Path) -> None:
    found = plan(name, tmp_path)
    assert found
    for job in found:
        assert "{" not in job.command.replace("${", ""), job.name
        assert str(tmp_path / job.name) in job.command, "each job writes to a folder of its own"


def test_a_sweep_is_a_job_for_each_value_and_one_that_compares_them(tmp_path: Path) -> None:
    also = {"method": {"ours": "method.hops=2"}}
    found = jobs(told({"sweep": "k", "run": "python -m pipeline.trial", "also": also, "slots": 2}), tmp_path)
    *values, table = found
    assert len(values) == 10
    assert values[0].command == (
        f"python -m pipeline.trial sweep=k hydra.mode=RUN hydra.run.dir={tmp_path}/k/ours-1 "
        "method=ours memory.k=1 method.hops=2"
    )
    assert "hops" not in values[-1].command
    assert table.needs == tuple(job.name for job in values)
    assert table.command == f"python -m pipeline.reporting.sweeps {tmp_path}/k {tmp_path}/sweeps/k"
    assert table.writes == (tmp_path / "sweeps" / "k" / "k.json",)


def test_the_command_says_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["world", "--root", str(tmp_path), "--only", "train/0/ours", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0].split()[-1] for line in lines] == [
        *("world/tables", "world/kv", "world/index", "train/0/ours")
    ]
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="no plan 'worlds' in conf/campaign; there is"):
        main(["worlds", "--root", str(tmp_path)])
