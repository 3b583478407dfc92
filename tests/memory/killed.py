"""A process that writes to a memory until it is killed, and what its folder must hold then.

Which change is the N-th follows from N alone, and each is one record of the journal. `python -m
tests.memory.killed` reads a folder and a sync policy a line, and for each forks a process that opens the
folder and writes on: it says `pid P`, then `try N` before change N, `done N` once that was acknowledged, and
`merge` before it merges, at once or beside what it writes on; when it was killed this says `dead`. Forking
saves the seconds that imports take, for the merges too.
"""

import os
import random
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Key
from pipeline.weights import Encoder
from tests.memory.beside import Forking
from tests.memory.small import fact
from tests.tiny import memory_settings

MERGE_EVERY = 9
HEADS, RELATIONS = 6, 3
SETTINGS = memory_settings(entities=100)


class Drawn(TextEncoder):
    """Draws a vector from the text, as weights would take longer to load than the process lives."""

    def __init__(self) -> None:
        section = Encoder(
            name="drawn", source="none", sha256="", dtype="float32", max_tokens=32, batch_size=8
        )
        super().__init__(section, "cpu")

    @property
    def dimension(self) -> int:
        return 16

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(16, generator=seed) for seed in seeds]), dim=-1)


def change(number: int) -> tuple[str, list[Key]]:
    """Return what change `number` does with which facts; an odd one deletes what the one before wrote."""
    draw = random.Random(number // 2)
    keys = {
        (f"Q{draw.randrange(HEADS)}", f"P{draw.randrange(RELATIONS)}", f"Q{draw.randrange(HEADS)}")
        for _ in range(3)
    }
    if number % 2:
        return "delete", sorted(keys)[:1]
    return ("replace" if number % 4 else "upsert"), sorted(keys)


def states(count: int) -> list[set[Key]]:
    """Return the facts that hold before the first change and after each of the first `count`."""
    held: set[Key] = set()
    found = [held]
    for number in range(count):
        kind, keys = change(number)
        if kind == "delete":
            held = held - set(keys)
        else:
            slots = {key[:2] for key in keys} if kind == "replace" else set()
            held = {key for key in held if key[:2] not in slots} | set(keys)
        found.append(set(held))
    return found


def expected(count: int) -> set[Key]:
    """Return the facts that hold after the first `count` changes."""
    return states(count)[-1]


def carry_out(memory: DurableMemory, number: int) -> None:
    kind, keys = change(number)
    if kind == "delete":
        memory.delete(keys)
    else:
        memory.upsert([fact(key) for key in keys], replace=kind == "replace")


def told(words: str) -> None:
    os.write(1, f"{words}\n".encode())


def write_on(folder: Path, sync: str) -> None:
    """Write changes until killed."""
    told(f"pid {os.getpid()}")
    memory = Forking.begun(folder, SETTINGS, Drawn(), sync)
    while True:
        number = memory.journal.next - 1
        told(f"try {number}")
        carry_out(memory, number)
        told(f"done {number}")
        if number % MERGE_EVERY == 0:
            told("merge")
            memory.begin_merge() if number % 2 else memory.merge()


def main() -> None:
    for line in sys.stdin:
        folder, sync = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            write_on(Path(folder), sync)
        os.waitpid(child, 0)
        told("dead")


if __name__ == "__main__":
    main()
