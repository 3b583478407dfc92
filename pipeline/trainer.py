"""The machine that a stage trains or runs on, in Lightning's words."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("32-true", "bf16-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Accelerator, number of processes and number format."""

    accelerator: str
    """`cpu`, `gpu`, or `auto`: a GPU where there is one."""
    devices: int
    """Accelerators of each host."""
    hosts: int
    """Hosts of the run."""
    strategy: str
    """How Lightning spreads the work: `auto`, `ddp`, `fsdp`."""
    precision: str
    """Format of weights and activations: `bf16-true`, `bf16-mixed`, `16-mixed` or `32-true`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}, not {self.accelerator}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision must be one of {', '.join(PRECISIONS)}, not {self.precision}"
            )
        for name in ("devices", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")

    @property
    def device(self) -> torch.device:
        """The device of this process's tensors outside a Lightning loop.

        Raises:
            ValueError: `accelerator` is `gpu` and torch sees none.
        """
        seen = torch.cuda.is_available()
        if self.accelerator == "gpu" and not seen:
            raise ValueError(
                "trainer.accelerator is gpu, but torch sees none: choose trainer=cpu or trainer=auto, "
                "or install an accelerator build of torch"
            )
        return torch.device("cuda" if seen and self.accelerator != "cpu" else "cpu")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `lightning.Trainer` that these values are."""
        values = asdict(self)
        values["num_nodes"] = values.pop("hosts")
        return values
