"""What a measurement in a process of its own needs: a fresh one, cold files, and what is resident."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

STATUS = Path("/proc/self/status")
"""Where Linux tells a process what it takes."""
MAPS = Path("/proc/self/smaps")
"""Where it tells of each part of its memory."""


def alone(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `run` returns in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run).result()


def forget(folder: Path) -> None:
    """Ask the system to drop the files in `folder` from main memory; they are on disk."""
    for file in files_in(folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def files_in(folder: Path) -> list[Path]:
    """Return the files in `folder` and in the folders there."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def resident() -> dict[str, float]:
    """Return MiB of this process in main memory: now, at its peak, and now without and with files' pages."""
    told = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    names = {"VmRSS": "resident", "VmHWM": "peak", "RssAnon": "its own", "RssFile": "of files"}
    return {f"{name} MiB": round(int(told[key].split()[0]) / 1024, 1) for key, name in names.items()}


def mapped(folder: Path) -> float:
    """Return MiB of the files in `folder` that this process has in main memory by mapping them."""
    total, inside = 0, False
    for line in MAPS.read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            inside = len(rest) == 5 and Path(rest[4]).is_relative_to(folder.resolve())
        elif inside and first == "Rss:":
            total += int(rest[0])
    return total / 1024


def timed(run: Callable[[], Any]) -> float:
    """Return the milliseconds that `run` takes."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def spread(took: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum of milliseconds."""
    p50, p99 = np.percentile(took, [50, 99])
    return {"p50 ms": round(float(p50), 3), "p99 ms": round(float(p99), 3), "most ms": round(max(took), 3)}
