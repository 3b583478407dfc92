"""Merges beside the writer, that end when a test says so or start without the seconds that imports take."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event
from typing import Any

from pipeline.memory.durable import DurableMemory
from pipeline.memory.merging import Merging, Task, carried_out, end_with


class Gated(Merging):
    """A merge in a thread, that ends no sooner than its gate is opened."""

    gate: Event

    def _begin(self, descriptor: int) -> int:
        self.gate = Event()
        return os.getpid()

    def _result(self) -> dict[str, str]:
        found = carried_out(self._task)
        self.gate.wait(60)
        return found

    def _kill(self) -> None:
        self.gate.set()


class Ungated(Gated):
    """A merge in a thread."""

    def _result(self) -> dict[str, str]:
        return carried_out(self._task)


class Forked(Merging):
    """A merge in a process that is forked."""

    def _begin(self, descriptor: int) -> int:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for other in set(range(3, 256)) - {descriptor, writer}:
                    with suppress(OSError):
                        os.close(other)  # the lock of the memory's folder among them
                end_with(self._task.writer)
                os.write(writer, json.dumps(carried_out(self._task)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        self._told = reader
        self._child = child
        return child

    def _result(self) -> dict[str, str]:
        with os.fdopen(self._told) as stream:
            told = stream.read()
        os.waitpid(self._child, 0)
        found: dict[str, str] = json.loads(told)
        return found

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)


class Beside(DurableMemory):
    """A memory whose merges beside it are of another kind."""

    kind: type[Merging] = Gated

    def _begun_merge(self, task: Task, adopt: Callable[[Mapping[str, str]], None]) -> Merging:
        return self.kind(task, adopt)

    @property
    def going(self) -> Any:
        """The merge that goes on."""
        assert self.merging is not None
        return self.merging

    def let_end(self) -> None:
        """Let the merge that goes on end."""
        self.going.gate.set()
        self.going.wait()


class Forking(Beside):
    """A memory whose merges are forked."""

    kind = Forked


class Threaded(Beside):
    """A memory whose merges beside it are in a thread."""

    kind = Ungated
