"""The machine that a stage trains or runs on, in Lightning's words."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipeline.config import UserError

ACCELERATORS = ("auto", "cpu", "gpu")


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
    """How Lightning spreads the work: `auto`, `ddp`, `fsdp`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}, not {self.accelerator}"
            )
        for name in ("devices", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")

    @property
    def device(self) -> torch.device:
        """The device of this process's tensors outside a Lightning loop.

        Raises:
            UserError: `accelerator` is `gpu` and torch sees none.
        """
        seen = torch.cuda.is_available()
        if self.accelerator == "gpu" and not seen:
            raise UserError(
                "trainer.accelerator is gpu, but torch sees none: choose trainer=cpu or trainer=auto, "
                "or install an accelerator build of torch"
            )
        return torch.device("cuda" if seen and self.accelerator != "cpu" else "cpu")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `lightning.Trainer` that these values are."""
        values = asdict(self)
        values["num_nodes"] = values.pop("hosts")
        return values
