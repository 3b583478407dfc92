"""One local Ray for all tests that need it: starting it takes seconds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.memory.encoder import TextEncoder
from pipeline.ray import LOCAL, connected
from pipeline.weights import Encoder


@pytest.fixture(scope="session")
def texts(encoder: Encoder) -> TextEncoder:
    return TextEncoder(encoder, "cpu")


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Ray with two workers."""
    pytest.importorskip("ray", reason="the extra `cluster` isn't installed")
    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray = connected(LOCAL, 2)
        yield ray
        ray.shutdown()
