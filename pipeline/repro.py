"""Reproduces the whole pipeline, stages that don't need each other side by side: `python -m pipeline.repro`.

`dvc repro` runs one stage at a time. Small models and batches leave most of a second core idle, so that two
stages on one core each get more done than one after the other on two. Every stage is still run, cached and
recorded by DVC (`dvc repro --single-item`); at the end `dvc repro` finds what is left to do, if anything.
What no target needs is left alone: by default what the report doesn't, long contexts.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from pipeline.config import ROOT, UserError

DVC = (sys.executable, "-m", "dvc")
TARGETS = ("report",)
EVERY = 5.0
"""Seconds between two lines of one progress bar."""
EDGE = re.compile(r'^"(.+?)"(?: -> "(.+?)")?;$', re.MULTILINE)


def main(arguments: Sequence[str], folder: Path = ROOT) -> None:
    """Run the command on the project in `folder`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time (default: 2)")
    parser.add_argument("targets", nargs="*", default=TARGETS, help="stages to end with (default: report)")
    given = parser.parse_args(arguments)
    if given.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {given.jobs}")
    status = ("status", "--json", "--with-deps", *given.targets)
    if given.jobs > 1 and json.loads(told(status, folder)):
        graph: dict[str, set[str]] = {}
        for target in given.targets:
            graph |= needs(told(("dag", "--dot", target), folder))
        side_by_side(graph, given.jobs, lambda stage: reproduce(stage, given.jobs, folder))
    subprocess.run([*DVC, "repro", *given.targets], cwd=folder, check=True)


def told(words: Iterable[str], folder: Path) -> str:
    """Return what a DVC command prints.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run([*DVC, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def needs(dot: str) -> dict[str, set[str]]:
    """Return the stages that each stage waits for, from a graph in DOT, in its order."""
    graph: dict[str, set[str]] = {}
    for first, second in EDGE.findall(dot):
        graph.setdefault(first, set())
        if second:
            graph.setdefault(second, set()).add(first)
    return graph


def side_by_side(graph: dict[str, set[str]], jobs: int, run: Callable[[str], None]) -> None:
    """Run every stage once all that it waits for has ended, at most `jobs` at a time, the first ones first.

    After a failure no stage is begun, those under way go on to their end, and the failure is raised.
    """
    left, done = dict(graph), set[str]()
    going: dict[Future[None], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while left or going:
            ready = [stage for stage, before in left.items() if before <= done]
            for stage in ready[: jobs - len(going)]:
                del left[stage]
                going[pool.submit(run, stage)] = stage
            if not going:
                raise UserError(f"dvc.yaml: stages wait for each other: {', '.join(left)}")
            for ended in wait(going, return_when=FIRST_COMPLETED).done:
                ended.result()
                done.add(going.pop(ended))


def reproduce(stage: str, jobs: int, folder: Path) -> None:
    """Let DVC run one stage on its share of the cores, and pass on what it prints.

    Raises:
        UserError: the stage fails.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    command = [*DVC, "--wait-for-lock", "repro", "--single-item", stage]
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | shared, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        output = running.stdout
        assert isinstance(output, io.BufferedReader)
        relay(stage, iter(lambda: output.read1(4096), b""), say)
    if running.returncode:
        raise UserError(f"stage {stage} ended with {running.returncode}; its message stands above")


def say(line: str) -> None:
    """Print a line at once and whole, whoever else prints."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def relay(stage: str, pieces: Iterable[bytes], say: Callable[[str], None]) -> None:
    """Pass on whole lines with the stage's name before them; of a bar one state every few seconds."""
    rest, shown = "", time.monotonic()
    for piece in pieces:
        *parts, rest = re.split(r"(?<=[\r\n])", rest + piece.decode("utf-8", "replace"))
        for part in parts:
            line = part.strip()
            if part.endswith("\r"):
                if time.monotonic() - shown < EVERY:
                    continue
                shown = time.monotonic()
            if line:
                say(f"{stage} | {line}")
    if rest.strip():
        say(f"{stage} | {rest.strip()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
