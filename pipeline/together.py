"""Starts a stage in as many processes as its section `trainer` asks for.

Where neither torchrun nor SLURM has started this process, the stage starts torchrun on this host, hands it
the arguments that were composed already, and waits; torchrun starts all processes anew when one is lost.
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ROOT, ConfigError, UserError
from pipeline.place import place
from pipeline.processes import joined
from pipeline.trainer import Trainer

FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Lets processes that are started anew find each other: in the store that torchrun keeps for all attempts
stand the addresses of those that are gone, and Gloo connects to them now and then."""


def together(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make a stage run in as many processes as its section `trainer` asks for, in this one for one.

    What it returns is lost where it starts others.

    Raises:
        UserError: it asks for another number of processes than were started, or for several hosts.
    """
    name = run.__module__, run.__name__

    @wraps(run)
    def start(*values: Any, **named: Any) -> Any:
        trainer: Trainer = signature(run).bind(*values, **named).arguments["trainer"]
        if trainer.processes > 1 and place().world == 1:
            _spread((*name, values, named), trainer)
            return None
        with joined(trainer.device):
            return run(*values, **named)

    return start


def _spread(call: tuple[Any, ...], trainer: Trainer) -> None:
    """Run a stage in processes of this host, all anew up to `trainer.restarts` times when one is lost.

    Args:
        call: its module, its name, its arguments by place and by name.
        trainer: which processes.

    Raises:
        UserError: they would be on several hosts, or want more GPUs than there are; one of them raised it;
            one was lost too often.
    """
    if trainer.hosts > 1:
        raise UserError(
            f"trainer.hosts is {trainer.hosts}, but one process was started: start the same command on every "
            f"host, with srun or torchrun (see docs/scaling.md)"
        )
    seen = torch.cuda.device_count() if trainer.device.type == "cuda" else trainer.devices
    if seen < trainer.devices:
        raise UserError(f"trainer.devices is {trainer.devices}, but torch sees {seen} GPUs: set it to {seen}")
    threads = max(1, (os.cpu_count() or 1) // trainer.devices)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": path, **FRESH_STORE}
    with tempfile.TemporaryDirectory() as folder:
        arguments, trouble = Path(folder) / "arguments", Path(folder) / "trouble"
        arguments.write_bytes(pickle.dumps(call))
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        words += [f"--nproc-per-node={trainer.devices}", f"--max-restarts={trainer.restarts}"]
        words += [sys.executable, "-m", "pipeline.together", str(arguments), str(trouble)]
        done = subprocess.run(words, env=environment)
        if trouble.is_file():
            raise UserError(trouble.read_text(encoding="utf-8"))
        if done.returncode:
            raise UserError(
                f"one of {trainer.devices} processes was lost more than {trainer.restarts} times "
                f"(trainer.restarts); what it said stands above, and the last checkpoint is kept"
            )


def main(arguments: Path, trouble: Path) -> None:
    """Run the stage as one of its processes.

    A user's error would be met again at every restart: it is left in `trouble` for the command that started
    all this, and whoever finds it there gives up at once.
    """
    if trouble.is_file():
        sys.exit(1)
    module, name, values, named = pickle.loads(arguments.read_bytes())  # our own file
    try:
        stage = getattr(importlib.import_module(module), name)
        getattr(stage, "run", stage)(*values, **named)
    except (ConfigError, UserError) as error:
        trouble.write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
