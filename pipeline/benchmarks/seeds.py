"""Trains and evaluates methods with several seeds on the tables at hand, and reports them together.

    python -m pipeline.benchmarks.seeds --methods ours rag --seeds 0 1 2 --out reports/h100/NAME -- OVERRIDES

The overrides are those of the stages (`train=h100 evaluate=human memory.k=5`). Runs go side by side, `--jobs`
at a time. The report of all runs is written to OUT, with `provenance.json` beside it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path

from pipeline.config import UserError
from pipeline.evaluation.environment import provenance

UNTRAINED = ("closed_book", "majority", "atlaskv_flat", "icl")
TRAIN_ONLY, EVALUATE_ONLY = ("train", "trainer", "logger"), ("evaluate",)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="spread the runs over this many GPUs")
    parser.add_argument("--scratch", type=Path, default=Path("multirun/seeds"))
    parser.add_argument("--out", type=Path, required=True)
    own, overrides = list(arguments), []
    if "--" in own:
        own, overrides = own[: own.index("--")], own[own.index("--") + 1 :]
    given = parser.parse_args(own)
    began = time.perf_counter()
    runs = [(method, seed) for seed in given.seeds for method in given.methods]
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [
            pool.submit(_one, *run, given.scratch, overrides, str(place % given.gpus) if given.gpus else None)
            for place, run in enumerate(runs)
        ]
        for job in jobs:
            job.result()
    adapters = given.scratch / "train" / str(given.seeds[0])
    folders = [f"paths.evaluations={given.scratch}/evaluate", f"paths.adapters={adapters}"]
    _stage("report", [*folders, f"hydra.run.dir={given.out}"], given.scratch / "report.log", None)
    command = "python -m pipeline.benchmarks.seeds " + " ".join(arguments)
    measured = provenance(command, given.seeds) | {"seconds": time.perf_counter() - began}
    (given.out / "provenance.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _one(method: str, seed: int, scratch: Path, overrides: list[str], gpu: str | None) -> None:
    adapters = scratch / "train" / str(seed)
    shared = [f"method={method}", f"seed={seed}", f"paths.adapters={adapters}"]
    if method not in UNTRAINED:
        chosen = [o for o in overrides if o.split("=")[0].split(".")[0] not in EVALUATE_ONLY]
        folder = f"hydra.run.dir={adapters}/{method}"
        _stage("train", [*chosen, *shared, folder], scratch / f"train-{method}-{seed}.log", gpu)
    chosen = [o for o in overrides if o.split("=")[0].split(".")[0] not in TRAIN_ONLY]
    folder = f"hydra.run.dir={scratch}/evaluate/{method}-{seed}"
    _stage("evaluate", [*chosen, *shared, folder], scratch / f"evaluate-{method}-{seed}.log", gpu)


def _stage(name: str, overrides: list[str], log: Path, gpu: str | None) -> None:
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        command = [sys.executable, "-m", f"pipeline.{name}", *overrides]
        ended = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environ | seen
        ).returncode
    if ended:
        lines = log.read_text(encoding="utf-8").splitlines()
        told = [line for line in lines if line.strip() and "HYDRA_FULL_ERROR" not in line]
        last = told[-1] if told else "it said nothing"
        raise UserError(f"{' '.join(command)}: ended with {ended}; see {log}: {last}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
