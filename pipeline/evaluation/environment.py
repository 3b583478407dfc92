"""What a figure was measured with: command, commit, versions and hardware; nothing that names a host."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from pipeline.config import ROOT

LIBRARIES = (
    "torch",
    "transformers",
    "lightning",
    "pykeen",
    "numpy",
    "pyarrow",
    "faiss-cpu",
    "faiss-gpu",
    "peft",
)


def provenance(command: str, seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Return what every report says of itself beside its figures."""
    return {
        "command": command,
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "seeds": list(seeds),
    }


def overridden(command: str) -> str:
    """Return `command` with the values that this run of it was given; its folders say nothing elsewhere."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    names = {one: one.split("=")[0] for one in given}
    kept = [
        one for one in given if not names[one].startswith("paths.") and not names[one].endswith(".folder")
    ]
    return " ".join([command, *map(shlex.quote, kept)])


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
    """Return the processor, the cores that this process may use, the memory and the GPU, if any."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described: dict[str, str | int | float] = {
        "processor": processor(),
        "cores": allowed,
        "memory in GiB": round(memory, 1),
    }
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
