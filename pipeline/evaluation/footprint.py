"""What a method takes beyond its language model: memory while it is built and while it answers, and time.

On a GPU that is what torch has allocated there; the reserved figure counts what its allocator keeps, too. On
a CPU it is the resident memory of the process, peaks by Linux's own mark (VmHWM), so each measurement wants
a fresh process, which has nothing left over from another one.
"""

import gc
import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pipeline.config import Paths, UserError
from pipeline.evaluation.systems import needed, system_on
from pipeline.evaluation.variants import Variant
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.closedbook import ClosedBook
from pipeline.model.reader import Reader
from pipeline.weights import Encoder, LanguageModel

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Job:
    """One measurement: a variant on one memory, asked one batch of questions again and again."""

    variant: Variant
    memory: Path
    """Folder of a memory's snapshot."""
    questions: list[str]
    repeats: int
    """Batches that are timed; one before them is not."""
    seed: int
    """Of the adapter."""
    trained: bool
    """Whether an adapter is loaded: what is taken doesn't depend on it."""


@dataclass(frozen=True)
class Machine:
    """Weights and where they compute."""

    lm: LanguageModel
    encoder: Encoder
    paths: Paths
    device: str
    """`cuda` or `cpu`."""


class Gauge:
    """Bytes taken on a device.

    Args:
        device: a GPU, or the CPU for the memory of this process.

    Raises:
        UserError: a CPU is asked for where there is no /proc.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if not self.cuda and not (PROC / "clear_refs").exists():
            raise UserError("footprint: peaks of a process are read from Linux's /proc; use Linux or a GPU")

    def held(self) -> int:
        """Return what is taken now."""
        gc.collect()
        return torch.cuda.memory_allocated() if self.cuda else self._status("VmRSS")

    def restart(self) -> None:
        """Forget the peak so far."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            (PROC / "clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most that was taken since `restart`."""
        return torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")

    def reserved(self) -> int | None:
        """Return the most that torch's allocator kept since `restart`; None on a CPU."""
        return torch.cuda.max_memory_reserved() if self.cuda else None

    @staticmethod
    def _status(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", (PROC / "status").read_text(), re.MULTILINE)
        assert found
        return 1024 * int(found[1])


def measured(job: Job, machine: Machine) -> dict[str, Any]:
    """Return what a job takes, in this process on a GPU and in a fresh one on a CPU; see `measure`.

    What can't be done is a row with a `reason`: more text than the model has positions for, or too little
    memory.
    """
    try:
        if machine.device != "cpu":
            return measure(job, machine)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(measure, job, machine).result()
    except (torch.OutOfMemoryError, MemoryError) as error:
        return {"reason": f"out of memory: {str(error).splitlines()[0]}"}
    except BrokenProcessPool:
        return {"reason": "the process was killed, as the system does when its memory is full"}


def measure(job: Job, machine: Machine) -> dict[str, Any]:
    """Return bytes and seconds.

    `lm` is what the language model takes; beyond it `held` is what the method keeps (encoder, adapter and
    facts), `built` the peak up to the end of the first batch, when trees and caches are made, `peak` that of
    the batches after it. `reserved` is the same as torch's allocator keeps it, None on a CPU. `seconds` are
    those of a question, one figure a batch; what is remembered of facts is dropped before each.
    """
    device = torch.device(machine.device)
    gauge = Gauge(device)
    gauge.restart()
    before = gauge.held()
    reader = Reader(machine.lm, device)
    reader.generate(reader.tokens(job.questions[:1]), 1)  # weights on disk are read at first use
    lm = gauge.held() - before
    base = before + lm
    gauge.restart()
    kept = gauge.reserved()
    texts = TextEncoder(machine.encoder, device)
    settings = needed(job.variant.method, job.variant.memory)
    reads = not isinstance(job.variant.method, ClosedBook)
    memory = KnowledgeMemory.open(job.memory, settings, texts) if reads else KnowledgeMemory(settings, texts)
    system = system_on(job.variant.method, reader, texts, memory)
    if job.trained:
        job.variant.load(system, machine.paths, job.seed)
    system.eval()
    try:
        with system.attached():
            system.reply(job.questions)
            built = gauge.peak()
            held = gauge.held()
            gauge.restart()
            seconds = []
            for _ in range(job.repeats):
                system.forget()
                began = perf_counter()
                system.reply(job.questions)
                _wait(device)
                seconds.append((perf_counter() - began) / len(job.questions))
    except UserError as error:  # more text than the model has positions for
        return {"lm": lm, "reason": str(error)}
    reserved = gauge.reserved()
    return {
        "lm": lm,
        "held": held - base,
        "built": built - base,
        "peak": gauge.peak() - base,
        "reserved": None if reserved is None or kept is None else reserved - kept,
        "seconds": seconds,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
