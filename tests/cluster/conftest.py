import pytest

from pipeline.memory.encoder import TextEncoder
from pipeline.weights import Encoder


@pytest.fixture(scope="session")
def texts(encoder: Encoder) -> TextEncoder:
    return TextEncoder(encoder, "cpu")
