"""What the tests of RotatE share: a configuration and a small graph with composition in it."""

from pathlib import Path

import numpy as np
import yaml

from pipeline.kg.facts import Ids
from pipeline.kg.rotate import Rotate

CONF = Path(__file__).parents[1] / "conf" / "rotate"


def laptop(**changes: object) -> Rotate:
    """Return the laptop choice with some keys changed."""
    return Rotate(**(yaml.safe_load((CONF / "laptop.yaml").read_text()) | changes))


def ring(size: int = 24) -> Ids:
    """Return facts on a ring: relation k leads k + 1 places on, so that relation 0 twice is relation 1."""
    return np.array([[place, step, (place + step + 1) % size] for place in range(size) for step in range(3)])
