"""Runs other people's Python without measuring its coverage, which makes it three times as slow."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untraced() -> Iterator[None]:
    """Let no tracer see what this thread runs inside: for calls that run none of pipeline/."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def unmeasured() -> dict[str, str]:
    """Return the environment for a process that runs none of this checkout's pipeline/."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
