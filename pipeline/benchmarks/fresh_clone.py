"""Measures `make repro` where nobody has run it yet: `python -m pipeline.benchmarks.fresh_clone`.

It clones the commit at hand into an empty folder and runs there `make setup` (a virtual environment of its
own, packages and weights from the registry), `make repro`, and `make repro` again, which must find nothing to
do. Minutes, peak memory and the stages that ran go to reports/laptop.json; the clone's dvc.lock and reports
come back into this checkout, to be committed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import psutil
import yaml

from pipeline.config import ROOT, UserError
from pipeline.evaluation.environment import provenance

INTERVAL = 0.5
"""Seconds between two readings of the memory."""
HERE = (
    "KG_DATA_ROOT",
    "KG_CACHE",
    "KG_COMMIT",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "VENV",
    "MAKEFLAGS",
    "MAKELEVEL",
)
"""What the environment at hand must not lend to the clone."""


@dataclass(frozen=True)
class Watched:
    """What a command did."""

    seconds: float
    peak: int
    """Bytes that it and its descendants held together, at most; pages that they share count for each."""
    output: str


def watch(command: list[str], folder: Path, environment: dict[str, str]) -> Watched:
    """Run `command` in `folder`, pass on what it prints, and measure it.

    Raises:
        UserError: it failed.
    """
    began = time.perf_counter()
    printed: list[bytes] = []

    def read(stream: Any) -> None:
        while part := stream.read1():
            printed.append(part)
            sys.stdout.buffer.write(part)
            sys.stdout.flush()

    peak = 0
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        reader = Thread(target=read, args=[process.stdout])
        reader.start()
        while process.poll() is None:
            peak = max(peak, held(process.pid))
            time.sleep(INTERVAL)
        reader.join()
    output = b"".join(printed).decode(errors="replace")
    if process.returncode:
        tail = " / ".join(output.splitlines()[-3:])
        raise UserError(f"`{' '.join(command)}` in {folder} ended with {process.returncode}: {tail}")
    return Watched(time.perf_counter() - began, peak, output)


def held(pid: int) -> int:
    """Return the resident bytes of a process and its descendants, together."""
    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def stages(output: str) -> list[str]:
    """Return the stages that `dvc repro` says it ran."""
    return re.findall(r"Running stage '([^']+)'", output)


def returned(clone: Path, to: Path) -> list[str]:
    """Copy dvc.lock and what the stage `report` keeps in git from `clone`, and return their paths."""
    stage = yaml.safe_load((clone / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]
    reports = yaml.safe_load((clone / "conf" / "config.yaml").read_text(encoding="utf-8"))["paths"]["reports"]
    kept = [path if isinstance(path, str) else next(iter(path)) for path in stage["outs"] + stage["metrics"]]
    paths = ["dvc.lock", *(path.replace("${paths.reports}", reports) for path in kept)]
    for path in paths:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        if (clone / path).is_dir():
            shutil.copytree(clone / path, to / path, dirs_exist_ok=True)
        else:
            shutil.copyfile(clone / path, to / path)
    return paths


def measure(clone: Path) -> dict[str, Any]:
    """Set up and run everything in `clone`, and return the figures."""
    environment = {name: value for name, value in environ.items() if name not in HERE}
    # Nothing that was downloaded before: neither packages nor weights.
    environment |= {"PIP_NO_CACHE_DIR": "1", "KG_CACHE": str(clone / ".weights")}
    setup = watch(["make", "setup"], clone, environment)
    first = watch(["make", "repro"], clone, environment)
    second = watch(["make", "repro"], clone, environment)
    return {
        "setup_minutes": round(setup.seconds / 60, 2),
        "minutes": round(first.seconds / 60, 2),
        "peak_gib": round(max(setup.peak, first.peak) / 2**30, 2),
        "stages": stages(first.output),
        "second_minutes": round(second.seconds / 60, 2),
        "second_stages": stages(second.output),
        "second_stages_run": len(stages(second.output)),
    }


def main() -> None:
    """Clone, run, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "laptop.json")
    parser.add_argument("--to", type=Path, default=ROOT, help="checkout that gets dvc.lock and the reports")
    given = parser.parse_args()
    measured = provenance("python -m pipeline.benchmarks.fresh_clone", [0])
    if str(measured["commit"]).endswith("-dirty"):
        raise UserError("there are changes that no commit holds, so a clone would lack them: commit first")
    with TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        figures = measure(clone)
        returned(clone, given.to)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(measured | {"figures": figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
