"""What a figure was measured with: library versions and hardware, without anything that names a host."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pipeline.config import ROOT

LIBRARIES = ("torch", "transformers", "lightning", "numpy", "pyarrow", "faiss-cpu", "faiss-gpu")


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of `LIBRARIES` that are installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int | float]:
    """Return the processor, the cores that this process may use, and the GPU where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described: dict[str, str | int | float] = {"processor": processor(), "cores": allowed}
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["gpus"] = torch.cuda.device_count()
    return described


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or its architecture where the system does not list it."""
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """Return the commit of the checkout: `KG_COMMIT` where a copy has no history, else what git says."""
    if given := os.environ.get("KG_COMMIT"):
        return given
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
