"""Jobs side by side until a deadline: which is started next, and what became of each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.benchmarks.plan import Job
from pipeline.evaluation.environment import provenance

LOG, ABOUT = "log.txt", "provenance.json"
GRACE = 5.0
"""Seconds from the request to end until a job is killed."""
PAUSE = 0.1
LAST = 5
"""Lines of a failed job's output that are told."""


@dataclass
class Running:
    """A job that was started."""

    job: Job
    process: subprocess.Popen[bytes]
    gpu: str | None
    began: float
    beside: int
    """Most jobs that ran at the same time."""


class Campaign:
    """The jobs of a plan, and where each stands.

    Args:
        jobs: the jobs, in the order of their start.
        root: what they write lies below it.
        most: jobs at a time.
        gpus: devices to spread them over, the first that the environment lets be seen; 0 leaves it as it is.
        threads: of each job.
        name: of the plan.
    """

    def __init__(
        self, jobs: Sequence[Job], root: Path, most: int, gpus: int, threads: int, name: str
    ) -> None:
        self.file = root / f"campaign-{name}.json"
        self.jobs, self.root, self.most, self.threads = jobs, root, most, threads
        given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        self.devices = given.split(",")[:gpus]
        self.about = provenance("", sorted({job.seed for job in jobs}))
        self.states = {job.name: "done" if _is_done(job, root) else "not started" for job in jobs}
        self.seconds = {job.name: _seconds(job, root) for job in jobs}
        self.running: list[Running] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """Run what can be run within `seconds`; return what campaign-NAME.json holds in the end."""
        began = time.monotonic()
        deadline = began + seconds
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
        self.about["minutes"] = round((time.monotonic() - began) / 60, 1)
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
        seen = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        seen |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        gpu = None
        if self.devices:
            held = Counter[str | None]()
            for one in self.running:
                held[one.gpu] += one.job.slots
            gpu = min(self.devices, key=lambda device: held[device])
            seen["CUDA_VISIBLE_DEVICES"] = gpu
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
