"""A merge in a process of its own, while its memory is searched and written to.

The process reads the memory's folder up to a byte of the journal, as one that follows does, and writes the
snapshot of that to a folder of its own; what counts is changed by the writer alone. It stands back behind
other processes and ends when its writer is gone. `Merging` starts it, as `python -m pipeline.memory.merging`,
and tells it its task by the input.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.disk import remove, sync_folder
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.lock import guarded
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory

BASE = "base"
"""The snapshot, in the folder of a merge."""
PACKAGES = Path(__file__).resolve().parents[2]
"""Where the process finds this package."""
NICE = 5
"""How far it stands back."""
WATCH = 0.05
"""Seconds between its looks at whether its writer is there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is to be merged."""

    folder: str
    """Of the memory."""
    until: int
    """Byte of the journal that the merge goes up to."""
    work: str
    """Folder to write in, which is there."""
    encoder: str
    """Name of the encoder that the vectors are from."""
    settings: dict[str, Any]
    """Of the memory."""
    writer: int
    """Number of the process that waits for it."""


class Named(TextEncoder):
    """Stands for an encoder where no text is encoded.

    Args:
        name: of the encoder.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = torch.device("cpu")


def carried_out(task: Task) -> dict[str, str]:
    """Write the snapshot; return the checksum of each of its files that the manifest names.

    Raises:
        UserError: a file is damaged, or there is no room.
    """
    memory = KnowledgeMemory(Memory(**task.settings), Named(task.encoder))
    held = generations.read(Path(task.folder), memory.encoder, memory.settings.layout, task.until)
    memory._take(held)
    base = Path(task.work) / BASE
    memory.lay_down(base)
    sync_folder(base)
    return generations.checksums(base)


class Merging:
    """A merge that goes on.

    Args:
        task: what is to be merged.
        adopt: takes over the snapshot, given the checksums of its files; it may raise a UserError.

    Raises:
        OSError: it can't be begun.
    """

    def __init__(self, task: Task, adopt: Callable[[Mapping[str, str]], None]) -> None:
        self._task = task
        self._adopt = adopt
        self._stopped = False
        self._failure: UserError | None = None
        work = Path(task.work)
        remove(work)
        work.mkdir()
        descriptor = guarded(work)  # until the process ends, whatever becomes of this one
        try:
            self.pid = self._begin(descriptor)
        finally:
            os.close(descriptor)
        self._thread = Thread(target=self._end, name="merge", daemon=True)
        self._thread.start()

    def _begin(self, descriptor: int) -> int:
        """Start the process, which is to inherit `descriptor`; return its number."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=PACKAGES,
            pass_fds=[descriptor],
            text=True,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        return self._process.pid

    def _result(self) -> dict[str, str]:
        """Return what `carried_out` does, once the process has ended."""
        told, complaint = self._process.communicate(json.dumps(asdict(self._task)))
        if self._process.returncode:
            lines = complaint.strip().splitlines()
            raise UserError(lines[-1] if lines else f"its process ended with {self._process.returncode}")
        found: dict[str, str] = json.loads(told)
        return found

    def _end(self) -> None:
        try:
            files = self._result()
            if not self._stopped:
                self._adopt(files)
        except Exception as error:  # whatever it is, the memory is as it was
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._failure = UserError(
                f"{self._task.folder}: not merged ({reason}); its changes are in the journal as before, and "
                "the next merge takes them"
            )
            if not self._stopped:
                logger.error("%s", self._failure)
        finally:
            remove(Path(self._task.work))

    @property
    def going(self) -> bool:
        """Whether it hasn't ended."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Return once it has ended.

        Raises:
            UserError: nothing was merged.
        """
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End it; what it has written is given up, unless it is being taken over."""
        self._stopped = True
        self._kill()
        self._thread.join()

    def _kill(self) -> None:
        self._process.kill()


def end_with(writer: int) -> None:
    """End this process once process `writer`, which began it, is gone."""

    def watch() -> None:
        while os.getppid() == writer:
            time.sleep(WATCH)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def main() -> None:
    """Carry out the task that the input describes, and tell what `carried_out` returns."""
    task = Task(**json.load(sys.stdin))
    end_with(task.writer)
    with suppress(OSError):
        os.nice(NICE)
    torch.set_num_threads(1)
    try:
        sys.stdout.write(json.dumps(carried_out(task)))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
