"""Fits tiny systems and keeps what every step did; run by torchrun, the steps of two processes."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation.systems import Method, open_system
from pipeline.model.batches import Pool
from pipeline.model.fitting import Fitting, fit
from pipeline.model.prompt import PromptSystem
from pipeline.model.settings import AtlasKv
from pipeline.model.sharding import sharded
from pipeline.model.system import Example
from pipeline.place import first
from pipeline.processes import joined
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import (
    dysk,
    ours,
    rag,
    rag_tuned,
    shaken,
    some_examples,
    training,
    vector,
)
from tests.tiny import SmallWorld, memory_settings

STEPS = 4
METHODS: dict[str, Method] = {
    "ours": ours(letters=True),
    "rag": rag(),
    "rag_tuned": rag_tuned(),
    "dysk": dysk(),
    "kblam": vector(),
    "atlaskv": vector(AtlasKv, roots=4, alpha=0.5, scored=3, refuses=False),
}
"""Of every kind of loss."""
TWO = Trainer(accelerator="cpu", devices=2, hosts=1, strategy="ddp", restarts=0)
STRATEGIES = "ddp", "fsdp"
Step = dict[str, tuple[torch.Tensor, torch.Tensor | None]]


class Kept(list[Step]):
    """Parameters and their gradients, before they are clipped, of each step."""

    def __init__(self) -> None:
        super().__init__()
        self._real: Any = Fitting.configure_gradient_clipping

    def __enter__(self) -> "Kept":
        def clip(module: Fitting, *given: Any, **named: Any) -> None:
            told = module.system.named_parameters()
            self.append(
                {n: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for n, p in told}
            )
            self._real(module, *given, **named)

        Fitting.configure_gradient_clipping = clip  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        Fitting.configure_gradient_clipping = self._real  # type: ignore[method-assign]


def fitted(
    name: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder, trainer: Trainer, folder: Path
) -> tuple[Sequence[Step], dict[str, torch.Tensor]]:
    """Fit a method to batches of three, some questions of which nothing answers; return its steps and end."""
    torch.manual_seed(0)
    parts = memory_settings(entities=60), lm, encoder, world.graph, world.paths, torch.device("cpu")
    system = open_system(METHODS[name], *parts, shares=trainer.strategy == "fsdp")
    assert sharded(system.reader.lm) == (trainer.strategy == "fsdp")
    shaken(system, 0.05)
    known = some_examples(system, 6)
    without = [Example(f"Why {n}?", (), (), "unanswerable") for n in range(3)]
    # The reader of `rag_tuned` is fitted without them, though its search has learned from them.
    refuses = system.learns_refusal and not isinstance(system, PromptSystem)
    pool = Pool(known[:4], known[4:], without if refuses else [])
    settings = training(folder, unanswerable=0.4, batch_size=3)
    folder.mkdir(exist_ok=True)
    curve, checkpoints = folder / f"{name}.csv", folder / f"{name} checkpoints"
    with Kept() as steps:
        fit(system, pool, settings, trainer, STEPS, 0, curve, checkpoints, [], progress=False)
    return list(steps), {n: value.clone() for n, value in system.state_dict().items()}


def main(inputs: Path, out: Path) -> None:
    world, lm, encoder = pickle.loads(inputs.read_bytes())
    with joined(torch.device("cpu")):
        for name, strategy in product(METHODS, STRATEGIES):
            trainer = replace(TWO, strategy=strategy)
            told = fitted(name, world, lm, encoder, trainer, out / strategy)
            if first():
                torch.save(told, out / strategy / f"{name}.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
