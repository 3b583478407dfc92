"""The machine that a stage trains or runs on, in Lightning's words."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config import UserError
from pipeline.place import place

ACCELERATORS = ("auto", "cpu", "gpu")
STRATEGIES = ("auto", "ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Accelerator and number of processes; number formats belong to the models: see conf/lm."""

    accelerator: str
    """`cpu`, `gpu`, or `auto`: a GPU where there is one."""
    devices: int
    """Accelerators of each host."""
    hosts: int
    """Hosts of the run."""
    strategy: str
    """How processes share the work: `auto` is one process, `ddp` gives each the whole model and a part of
    every batch, `fsdp` a part of the frozen language model too."""
    restarts: int
    """Times that all processes are started anew, from the last checkpoint, after one was lost."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}, not {self.accelerator}"
            )
        for name in ("devices", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"trainer.strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy}")
        if self.restarts < 0:
            raise ValueError(f"trainer.restarts must not be negative, but is {self.restarts}")
        if self.processes > 1 and self.strategy == "auto":
            raise ValueError(f"trainer.strategy must be ddp or fsdp for {self.processes} processes, not auto")

    @property
    def processes(self) -> int:
        """Processes that train together, one an accelerator."""
        return self.devices * self.hosts

    @property
    def shares(self) -> bool:
        """Whether processes share the frozen language model out among them."""
        return self.strategy == "fsdp" and self.processes > 1

    @property
    def device(self) -> torch.device:
        """The device of this process: among several on a host, each has the GPU of its number.

        Raises:
            UserError: `accelerator` is `gpu` and torch sees none.
        """
        seen = torch.cuda.is_available()
        if self.accelerator == "gpu" and not seen:
            raise UserError(
                "trainer.accelerator is gpu, but torch sees none: choose trainer=cpu or trainer=auto, "
                "or install an accelerator build of torch"
            )
        if not seen or self.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", place().local) if self.processes > 1 else torch.device("cuda")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `lightning.Trainer` that these values are."""
        values: dict[str, Any] = {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.hosts,
            "strategy": "auto",
        }
        if self.processes > 1:
            from lightning.pytorch.strategies import DDPStrategy

            # What a process has no question for, its part of the loss doesn't reach.
            values["strategy"] = DDPStrategy(find_unused_parameters=True)
        return values
