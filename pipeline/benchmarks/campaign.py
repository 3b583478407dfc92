"""Runs a plan of many commands side by side, as far as the time goes: conf/campaign/NAME.yaml.

    python -m pipeline.benchmarks.campaign world --root multirun/world --jobs 20 --gpus 2 --minutes 9

A second call goes on with what is not done: a job is done when it ended well and what it writes is there.
Each has a folder of its name below the root with its output (`log.txt`) and, once it ended,
`provenance.json`. What finished, failed or was not started is in `campaign-NAME.json`, which is written anew
at each end of a job, so that nothing is lost when this command is killed. Near the deadline no job is started
that would not end, and at the deadline those that run are ended; a training goes on from its checkpoint.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.benchmarks.plan import Job, plan
from pipeline.config import UserError
from pipeline.evaluation.environment import provenance

LOG, ABOUT = "log.txt", "provenance.json"
GRACE = 5.0
"""Seconds from the request to end until a job is killed."""
PAUSE = 0.1
LAST = 5
"""Lines of a failed job's output that are told."""
HEAVY, WEIGHTS = (".safetensors", ".ckpt", ".npy"), "adapter.safetensors"
LARGE, PART = 4 * 2**20, 15 * 2**20
"""Bytes above which an archive leaves a file out, and of each of its parts."""


@dataclass
class Running:
    """A job that was started."""

    job: Job
    process: subprocess.Popen[bytes]
    gpu: int | None
    began: float
    beside: int
    """Most jobs that ran at the same time."""


class Campaign:
    """The jobs of a plan, and where each stands.

    Args:
        jobs: the jobs, in the order of their start.
        root: what they write lies below it.
        most: jobs at a time.
        gpus: devices to spread them over; 0 leaves the choice to the environment.
        threads: of each job.
        name: of the plan.
    """

    def __init__(
        self, jobs: Sequence[Job], root: Path, most: int, gpus: int, threads: int, name: str
    ) -> None:
        self.file = root / f"campaign-{name}.json"
        self.jobs, self.root, self.most, self.gpus, self.threads = jobs, root, most, gpus, threads
        self.about = provenance("", sorted({job.seed for job in jobs}))
        self.states = {job.name: "done" if _is_done(job, root) else "not started" for job in jobs}
        self.seconds = {job.name: _seconds(job, root) for job in jobs}
        self.running: list[Running] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """Run what can be run within `seconds`; return what campaign-NAME.json holds in the end."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                self._collect()
                while (job := self._next(deadline)) is not None:
                    self._start(job)
                if not self.running:
                    break
                time.sleep(PAUSE)
        finally:
            self._end()
        return self._told()

    def _next(self, deadline: float) -> Job | None:
        """Return the first job that can be started now and would end in time."""
        free = self.most - sum(one.job.slots for one in self.running)
        left = (deadline - time.monotonic()) / 60
        for job in self.jobs:
            ready = all(self.states[name] == "done" for name in job.needs)
            fits = job.slots <= max(free, 0 if self.running else job.slots)
            if self.states[job.name] == "not started" and ready and fits and job.minutes <= left:
                if absent := [file for file in job.files if not file.exists()]:
                    self.states[job.name] = f"lacks {absent[0]}"
                    continue
                return job
        return None

    def _start(self, job: Job) -> None:
        folder = self.root / job.name
        folder.mkdir(parents=True, exist_ok=True)
        seen = os.environ | {"OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        gpu = None
        if self.gpus:
            held = Counter[int | None]()
            for one in self.running:
                held[one.gpu] += one.job.slots
            gpu = min(range(self.gpus), key=lambda device: held[device])
            seen["CUDA_VISIBLE_DEVICES"] = str(gpu)
        words = [sys.executable if word == "python" else word for word in job.words]
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, env=seen, start_new_session=True
            )
        self.running.append(Running(job, process, gpu, time.monotonic(), 0))
        for one in self.running:
            one.beside = max(one.beside, len(self.running))
        self.states[job.name] = "running"

    def _collect(self) -> None:
        """Take note of the jobs that ended."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            took = time.monotonic() - one.began
            absent = [path for path in one.job.writes if not path.exists()]
            if one.process.returncode or absent:
                self.states[one.job.name] = (
                    f"failed, ended with {one.process.returncode}"
                    if one.process.returncode
                    else f"failed, {absent[0]} was not written"
                )
            else:
                told = self.about | {"command": one.job.command, "seeds": [one.job.seed]}
                told |= {"seconds": round(took, 1), "at most beside": one.beside, "needs": one.job.needs}
                _write(self.root / one.job.name / ABOUT, told)
                self.states[one.job.name] = "done"
                self.seconds[one.job.name] = told["seconds"]
            sys.stdout.write(f"{one.job.name}: {self.states[one.job.name]} after {took:.0f} s\n")
            sys.stdout.flush()
            self._told()

    def _end(self) -> None:
        """End what runs, and write down where each job stands."""
        self._collect()
        for one in self.running:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGTERM)
        latest = time.monotonic() + GRACE
        for one in self.running:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, latest - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
            self.states[one.job.name] = "ended at the deadline"
        self.running.clear()

    def _told(self) -> dict[str, Any]:
        """Write and return where each job stands."""
        listed = []
        for job in self.jobs:
            row: dict[str, Any] = {"name": job.name, "state": self.states[job.name], "command": job.command}
            if row["state"] == "done":
                row["seconds"] = self.seconds[job.name]
            if row["state"] == "not started":
                row["waits for"] = [name for name in job.needs if self.states[name] != "done"]
            if row["state"].startswith(("failed", "ended")):
                row["last"] = _last(self.root / job.name / LOG)
            listed.append(row)
        told = self.about | {"states": dict(Counter(row["state"].split(",")[0] for row in listed))}
        _write(self.file, told | {"jobs": listed})
        return told | {"jobs": listed}


def _is_done(job: Job, root: Path) -> bool:
    return (job.brought or (root / job.name / ABOUT).is_file()) and all(path.exists() for path in job.writes)


def _seconds(job: Job, root: Path) -> float | None:
    """Return what a job took that was done by an earlier call; None where it was brought along."""
    file = root / job.name / ABOUT
    return json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.is_file() else None


def _last(log: Path) -> list[str]:
    """Return the last lines of an output; of a bar of progress, how it ended."""
    text = log.read_bytes().decode(errors="replace")
    lines = [line.rstrip().split("\r")[-1] for line in text.split("\n")]
    return [line for line in lines if line.strip() and "HYDRA_FULL_ERROR" not in line][-LAST:]


def _write(file: Path, told: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")
    fresh.replace(file)


def archived(campaign: Campaign, archive: Path, weights: bool) -> None:
    """Pack what the finished jobs left, and the output of the others, into ARCHIVE.0, ARCHIVE.1 and so on.

    `cat ARCHIVE.* | tar xz -C ROOT` brings it back.
    """
    packed, root = BytesIO(), campaign.root
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(campaign.file, campaign.file.name)
        for job in campaign.jobs:
            done = campaign.states[job.name] == "done"
            for file in sorted((root / job.name).glob("*")):
                light = file.suffix not in HEAVY and file.is_file() and file.stat().st_size <= LARGE
                if (light and (done or file.name == LOG)) or (weights and done and file.name == WEIGHTS):
                    tar.add(file, file.relative_to(root).as_posix())
    content = packed.getbuffer()
    for number, start in enumerate(range(0, len(content), PART)):
        archive.with_name(f"{archive.name}.{number}").write_bytes(content[start : start + PART])


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("plan", help="file of conf/campaign")
    parser.add_argument("--root", type=Path, required=True, help="where the results lie")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--gpus", type=int, default=0, help="spread them over this many GPUs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each command")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many")
    parser.add_argument("--only", nargs="*", default=[], help="jobs whose names begin so, and what they need")
    parser.add_argument("--archive", type=Path, help="pack the results into parts of this name (.tar.gz)")
    parser.add_argument("--weights", action="store_true", help="adapters too")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    given = parser.parse_args(arguments)
    jobs = wanted(plan(given.plan, given.root), given.only)
    campaign = Campaign(jobs, given.root, given.jobs, given.gpus, given.threads, given.plan)
    campaign.about["command"] = "python -m pipeline.benchmarks.campaign " + " ".join(arguments)
    if given.list:
        for job in jobs:
            sys.stdout.write(f"{campaign.states[job.name]:12} {job.name}: {job.command}\n")
        return
    told = campaign.run(60 * given.minutes)
    for row in told["jobs"]:
        if "last" in row:
            sys.stdout.write(f"{row['name']}: {row['state']}\n  " + "\n  ".join(row["last"]) + "\n")
    sys.stdout.write(f"{told['states']}; see {campaign.file}\n")
    if given.archive:
        archived(campaign, given.archive, given.weights)


def wanted(jobs: Sequence[Job], beginnings: Sequence[str]) -> list[Job]:
    """Return the jobs whose names begin with one of `beginnings`, and those they need; all without any."""
    if not beginnings:
        return list(jobs)
    named = {job.name: job for job in jobs}
    kept: set[str] = set()
    waiting = [job.name for job in jobs if job.name.startswith(tuple(beginnings))]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting += named[name].needs
    return [job for job in jobs if job.name in kept]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
