"""A plan of many commands: conf/campaign/NAME.yaml, and the jobs that come of it.

    settings:                       # texts that stand for {NAME} in what follows
      world: paths.tables={root}/world/tables
    jobs:
      - name: train/{seed}/{method} # its folder below the root too; {out} in its command
        over: {seed: [0, 1, 2], method: [ours, rag]}
        run: python -m pipeline.train method={method} seed={seed} {world} hydra.run.dir={out}
        also: {method: {ours: method.hops=2}}   # words for the jobs that have this value
        needs: [world/index]        # jobs that are done before it starts
        files: ["{root}/extra"]     # files that somebody has to bring
        writes: [adapter.safetensors]
        minutes: 4                  # that it takes at least; it isn't started with fewer left
        slots: 2                    # of those that --jobs gives, for what fills a GPU by itself
        brought: true               # done once what it writes is there, whoever made it

What is not needed may be left out. `called: {memit: "memit:batch=50"}` sets {entry}, which is the name of the
method without it. Jobs are started in the order of their seeds, then of the file.

    jobs:
      - sweep: alpha                # each of the jobs of conf/sweep/alpha.yaml, and one that compares them
        run: python -m pipeline.trial {world}
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import CONF, UserError, options

KEYS = {"name", "sweep", "over", "run", "also", "called", "needs", "files", "writes"}
KEYS |= {"minutes", "slots", "brought"}


@dataclass(frozen=True)
class Job:
    """One command."""

    name: str
    words: tuple[str, ...]
    """The command."""
    seed: int
    needs: tuple[str, ...]
    """Names of other jobs."""
    files: tuple[Path, ...]
    """What must lie there."""
    writes: tuple[Path, ...]
    """What it leaves; it is done only while they are there."""
    minutes: float
    slots: int
    brought: bool

    @property
    def command(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.words)


def plan(name: str, root: Path) -> list[Job]:
    """Return the jobs of conf/campaign/NAME.yaml that write below `root`, in the order of their start.

    Raises:
        UserError: there is no such plan, a key of it is unknown, or a job needs one that is not in it.
    """
    return jobs(read(name), root)


def read(name: str) -> dict[str, Any]:
    """Return what conf/campaign/NAME.yaml holds.

    Raises:
        UserError: there is no such plan.
    """
    if name not in options("campaign"):
        raise UserError(f"no plan {name!r} in conf/campaign; there is {', '.join(options('campaign'))}")
    told: dict[str, Any] = yaml.safe_load((CONF / "campaign" / f"{name}.yaml").read_text(encoding="utf-8"))
    return told


def jobs(told: Mapping[str, Any], root: Path) -> list[Job]:
    """Return the jobs that a plan tells of, in the order of their start.

    Raises:
        UserError: a key is unknown, two jobs have one name, or a job needs one that is not in the plan.
    """
    settings = {key: str(text) for key, text in told.get("settings", {}).items()}
    found: dict[str, Job] = {}
    for entry in (one for listed in told["jobs"] for one in _swept(listed)):
        if odd := sorted(entry.keys() - KEYS):
            raise UserError(f"conf/campaign: unknown key {odd[0]} of {entry.get('name')}; there is {KEYS}")
        over: Mapping[str, list[Any]] = entry.get("over", {})
        for values in product(*over.values()):
            job = _job(entry, dict(zip(over, values, strict=True)), settings, root)
            if job.name in found:
                raise UserError(f"conf/campaign: two jobs are called {job.name}")
            found[job.name] = job
    for job in found.values():
        if absent := [name for name in job.needs if name not in found]:
            raise UserError(f"conf/campaign: {job.name} needs {absent[0]}, which is no job of the plan")
    return sorted(found.values(), key=lambda job: job.seed)


def _swept(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return an entry for each job of a sweep and one for its table; of an entry without any, itself."""
    if "sweep" not in entry:
        return [entry]
    sweep, kept = entry["sweep"], {key: entry[key] for key in entry.keys() - {"sweep", "also"}}
    told = yaml.safe_load((CONF / "sweep" / f"{sweep}.yaml").read_text(encoding="utf-8"))
    params: Mapping[str, str] = told["hydra"]["sweeper"]["params"]
    found: list[Mapping[str, Any]] = []
    for values in product(*(str(text).split(",") for text in params.values())):
        words = [f"{key}={value}" for key, value in zip(params, values, strict=True)]
        words += filter(None, (entry.get("also", {}).get("method", {}).get(value) for value in values))
        run = f"{entry['run']} sweep={sweep} hydra.mode=RUN hydra.run.dir={{out}} {' '.join(words)}"
        name, writes = f"{sweep}/{'-'.join(values)}", ["trial.json", "answers.parquet"]
        found.append(kept | {"name": name, "run": run, "writes": writes})
    table = f"python -m pipeline.reporting.sweeps {{root}}/{sweep} {{out}}"
    needs = [one["name"] for one in found]
    return [*found, {"name": f"sweeps/{sweep}", "run": table, "needs": needs, "writes": [f"{sweep}.json"]}]


def _job(entry: Mapping[str, Any], values: dict[str, Any], settings: Mapping[str, str], root: Path) -> Job:
    method = values.get("method", "")
    given = {**settings, **values, "root": root, "entry": entry.get("called", {}).get(method, method)}
    name = entry["name"].format(**given)
    given["out"] = root / name

    def filled(text: str) -> str:
        before = ""
        while text != before:  # what stands for a name may hold others
            before, text = text, re.sub(r"\{(\w+)\}", lambda found: str(given[found[1]]), text)
        return text

    more = [told.get(values[axis], "") for axis, told in entry.get("also", {}).items()]
    return Job(
        name,
        tuple(shlex.split(filled(" ".join([entry["run"], *more])))),
        int(values.get("seed", 0)),
        tuple(filled(one) for one in entry.get("needs", [])),
        tuple(Path(filled(one)) for one in entry.get("files", [])),
        tuple(root / name / filled(one) for one in entry.get("writes", [])),
        float(entry.get("minutes", 0)),
        int(entry.get("slots", 1)),
        bool(entry.get("brought", False)),
    )
