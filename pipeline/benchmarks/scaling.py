"""Compares training in one process and in several: `python -m pipeline.benchmark scaling`.

The same system takes the same steps on the same batches, first in one process, then in two and so on, each
with its own GPU where there are GPUs, all in one session on one machine. The heads of ours are as new: what
a step computes doesn't depend on what they know. Throughputs, their ratios with intervals and the loss
curves go to scaling.json.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from numpy.typing import NDArray

from pipeline.benchmarks.processes import alone
from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import resampled_means
from pipeline.evaluation.learned import examples
from pipeline.evaluation.systems import Method, open_system, system_on
from pipeline.evaluation.training import Trained, settings_of
from pipeline.kg.facts import Graph
from pipeline.memory.disk import write_whole
from pipeline.memory.settings import Memory
from pipeline.model.batches import Train
from pipeline.model.dysk import Dysk
from pipeline.model.fitting import fit
from pipeline.model.prompt import Prompt
from pipeline.place import first
from pipeline.processes import agree, wait
from pipeline.together import together
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What is measured, how often."""

    processes: list[int]
    """Numbers of processes of this host, 1 among them."""
    batch_sizes: list[int]
    """Questions a step, shared out among the processes."""
    steps: int
    """Steps of every run."""
    warm: int
    """Steps before the clock runs: kernels are chosen and facts are met for the first time in them."""
    seeds: list[int]
    """Of adapters and batches; the same for every number of processes."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if 1 not in self.processes or min(self.processes) < 1:
            raise ValueError(f"scaling.processes must hold 1 and nothing below, not {self.processes}")
        if not self.batch_sizes or min(self.batch_sizes) < max(self.processes):
            raise ValueError(
                f"scaling.batch_sizes must be at least scaling.processes, {max(self.processes)}, "
                f"not {self.batch_sizes}"
            )
        if not 1 <= self.warm < self.steps:
            raise ValueError(f"scaling.warm must be from 1 to below scaling.steps, not {self.warm}")
        if not self.seeds or self.bootstrap_samples < 1:
            raise ValueError("scaling.seeds must not be empty and scaling.bootstrap_samples at least 1")


class Clock(DummyLogger):  # type: ignore[misc]
    """A logger of Lightning's that notes when each step had its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def log_metrics(self, *given: Any, **named: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


@together
def measured(
    scaling: Scaling,
    method: Trained,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    paths: Paths,
    folder: Path,
) -> dict[str, Any]:
    """Take the steps of every batch size and seed; the first process writes a file of each to `folder`."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    system = open_system(method, memory, lm, encoder, graph, paths, trainer.device, trainer.shares)
    pool, _ = examples(system, graph, paths)
    if not system.learns_refusal or isinstance(method, Prompt):
        pool = pool.plain()
    for size in scaling.batch_sizes:
        for seed in scaling.seeds:
            torch.manual_seed(seed)
            fresh = system_on(method, system.reader, system.encoder, system.memory)
            agree(fresh.state_dict())
            name, clock = f"{trainer.processes}-{size}-{seed}", Clock()
            settings = replace(train, batch_size=size, checkpoint_every=10 * scaling.steps)
            curve, checkpoints = folder / f"{name}.csv", folder / name
            how_long = trainer, scaling.steps, seed
            fit(fresh, pool, settings, *how_long, curve, checkpoints, [clock], progress=False)
            if first():
                losses = pd.read_csv(curve)["loss"].tolist()
                found = {"seconds": np.diff(clock.times)[scaling.warm - 1 :].tolist(), "loss": losses}
                (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    wait()
    return {}


def compared(
    runs: Mapping[tuple[int, int, int], Mapping[str, Any]], scaling: Scaling, size: int, processes: int
) -> dict[str, Any]:
    """Return throughput and losses of several processes beside those of one, at one batch size.

    Args:
        runs: `seconds` of the timed steps and `loss` of all, by processes, batch size and seed.
        scaling: seeds and resamples.
        size: questions a step.
        processes: how many are compared with one.

    Returns:
        Questions a second of both, their ratio with a 95 % interval from resampled pairs of steps (the same
        batch in both), and how far the losses of the same seed lie apart, beside those of two seeds.
    """
    seconds = np.array([[runs[n, size, s]["seconds"] for s in scaling.seeds] for n in (1, processes)])
    losses = np.array([[runs[n, size, s]["loss"] for s in scaling.seeds] for n in (1, processes)])
    pairs = seconds.reshape(2, -1).T
    means = resampled_means(pairs, scaling.bootstrap_samples, 0)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    by_seed = seconds.sum(axis=2)
    noise = [abs(a - b).mean() for i, a in enumerate(losses[0]) for b in losses[0][i + 1 :]]
    return {
        "processes": processes,
        "batch_size": size,
        "questions_per_second": {"one": size / pairs[:, 0].mean(), "together": size / pairs[:, 1].mean()},
        "ratio": {"mean": pairs[:, 0].mean() / pairs[:, 1].mean(), "low": low, "high": high},
        "ratio_by_seed": (by_seed[0] / by_seed[1]).tolist(),
        "loss_apart": {
            "same seed, mean": float(abs(losses[0] - losses[1]).mean()),
            "same seed, largest": float(abs(losses[0] - losses[1]).max()),
            "two seeds, mean": float(np.mean(noise)) if noise else None,
        },
        "loss": {"one": _thin(losses[0]), "together": _thin(losses[1])},
    }


def _told(row: Mapping[str, Any]) -> str:
    ratio, rate, apart = row["ratio"], row["questions_per_second"], row["loss_apart"]
    seeds = "" if apart["two seeds, mean"] is None else f", of two seeds {apart['two seeds, mean']:.4f}"
    return (
        f"{row['processes']} processes, {row['batch_size']} questions a step: {rate['together']:.1f} "
        f"questions/s against {rate['one']:.1f}, × {ratio['mean']:.2f} [{ratio['low']:.2f}, "
        f"{ratio['high']:.2f}]; losses of the same seed {apart['same seed, mean']:.4f} apart{seeds}"
    )


def _thin(curves: NDArray[np.float64]) -> list[list[float]]:
    return [[round(value, 5) for value in curve] for curve in curves.tolist()]


@stage
def scaling(
    scaling: Scaling,
    method: Method,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure every number of processes, and write and print how they compare.

    Raises:
        UserError: the method isn't trained, or is `dysk`, or the host has fewer GPUs than processes.
    """
    if not isinstance(method, Trained) or isinstance(method, Dysk):
        raise UserError(f"scaling: choose a method that is trained, and not dysk, instead of {method}")
    seen = torch.cuda.device_count() if trainer.device.type == "cuda" else max(scaling.processes)
    if seen < max(scaling.processes):
        raise UserError(f"scaling.processes: {max(scaling.processes)} want as many GPUs; torch sees {seen}")
    given: dict[str, Any] = {
        "scaling": scaling,
        "method": method,
        "memory": memory,
        "lm": lm,
        "encoder": encoder,
        "train": settings_of(method, train),
        "paths": paths,
    }
    strategy = "fsdp" if trainer.strategy == "fsdp" else "ddp"
    runs: dict[tuple[int, int, int], dict[str, Any]] = {}
    for processes in sorted(set(scaling.processes)):
        how = replace(trainer, devices=processes, hosts=1, strategy=strategy, restarts=0)
        with tempfile.TemporaryDirectory() as folder:
            # One is a process of its own too: this one keeps nothing on a GPU.
            alone(partial(measured, **given, trainer=how, folder=Path(folder)))
            for size, seed in product(scaling.batch_sizes, scaling.seeds):
                file = Path(folder) / f"{processes}-{size}-{seed}.json"
                runs[processes, size, seed] = json.loads(file.read_text(encoding="utf-8"))
    told = provenance(overridden("python -m pipeline.benchmark scaling"), scaling.seeds)
    told |= {"settings": asdict(scaling), "device": trainer.device.type, "strategy": strategy, "figures": []}
    for processes in sorted(set(scaling.processes) - {1}):
        for size in scaling.batch_sizes:
            row = compared(runs, scaling, size, processes)
            told["figures"].append(row)
            print(_told(row), flush=True)  # noqa: T201
    write_whole(out / "scaling.json", json.dumps(told, indent=1).encode() + b"\n")


if __name__ == "__main__":
    scaling()
