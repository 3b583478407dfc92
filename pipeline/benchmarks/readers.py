"""Processes that follow a memory which another one writes to, and search it for half of their time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.benchmarks.processes import spread, timed
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.following import FollowingMemory
from pipeline.memory.settings import Memory


class Readers(NamedTuple):
    """What searches."""

    processes: int
    """Processes."""
    dimensions: int
    """Of a query."""
    seed: int
    """Of the queries."""


@contextmanager
def reading(
    readers: Readers, memory: Memory, encoder: TextEncoder, folder: Path
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Let processes search the memory in `folder` meanwhile; what is yielded ends it and tells the times."""
    context = get_context("spawn")
    pipes, processes = [], []
    for number in range(readers.processes):
        mine, theirs = context.Pipe()
        process = context.Process(target=_read, args=(theirs, readers, memory, encoder, folder, number))
        process.start()
        pipes.append(mine)
        processes.append(process)
    try:
        for pipe in pipes:
            pipe.recv()  # it is ready
        yield partial(_asked, pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(timeout=60)
            process.kill()


def _asked(pipes: list[Connection]) -> dict[str, Any]:
    """Tell the processes to end and return the times of all."""
    for pipe in pipes:
        pipe.send("end")
    told = [pipe.recv() for pipe in pipes]
    took = [time for times, _, _ in told for time in times]
    if not took:
        return {}
    spent = spread([time for _, times, _ in told for time in times])
    processor = {f"of the processor, {name}": value for name, value in spent.items()}
    followed = sum(more for _, _, more in told)
    return spread(took) | processor | {"searches": len(took), "changes followed": followed}


def _read(
    pipe: Connection, readers: Readers, memory: Memory, encoder: TextEncoder, folder: Path, number: int
) -> None:
    """Search for half of the time until told to end; then tell how long each search took."""
    torch.set_num_threads(1)
    held = FollowingMemory.open(folder, memory, encoder)
    random = np.random.default_rng([readers.seed, 5, number])
    took: list[float] = []
    spent: list[float] = []
    followed = 0

    def search() -> None:
        nonlocal followed
        followed += held.follow()
        drawn = random.standard_normal((2, 1, readers.dimensions), dtype=np.float32)
        held.search(Query(*torch.from_numpy(drawn)))

    search()
    followed = 0
    pipe.send("ready")
    try:
        while not pipe.poll():
            before = time.process_time()
            took.append(timed(search))
            spent.append(1000 * (time.process_time() - before))
            time.sleep(took[-1] / 1000)
        pipe.recv()
        pipe.send((took, spent, followed))
    except (EOFError, OSError):  # who started it is gone
        return
