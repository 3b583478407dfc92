"""Settings of the baselines at the size of the tiny decoders."""

from typing import Any

import torch

from pipeline.longcontext.baselines.settings import Baselines, Landmarks, Observation, Quest, Razor


def baselines(**changes: Any) -> Baselines:
    """Return settings with which everything is kept, with `changes`."""
    values: dict[str, Any] = {
        "budget": 1.0,
        "sinks": 4,
        "snapkv": Observation(queries=4, pooling=3, pool="mean"),
        "beta": 20.0,
        "per_head": Observation(queries=2, pooling=3, pool="max"),
        "razor": Razor(
            tokens=12, repeats=3, induction=0.25, echo=0.0, sinks=2, budgeted=True, least=4, part=5
        ),
        "quest": Quest(page=4, dense=1),
        "landmarks": Landmarks(chunk=4, chunks=1000, window=6, offload=False),
    }
    return Baselines(**(values | changes))


def decoder(family: str = "llama") -> Any:
    """Return a tiny random decoder of 97 tokens that is not trained any more."""
    from tests.tiny import tiny_decoder  # brings the whole project along

    return tiny_decoder(family, vocabulary=97).eval().requires_grad_(False)


def text(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    """Return random tokens."""
    return torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(seed))
