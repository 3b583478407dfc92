"""Tiny models and the small world, made once a session; imported where used, because that takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.weights import Encoder, LanguageModel
    from tests.tiny import SmallWorld


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    from tests.tiny import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    from tests.tiny import tiny_language_model

    return tiny_language_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> SmallWorld:
    """The small world with its index and RotatE vectors; a test that changes files makes its own."""
    from tests.tiny import small_world

    made = small_world(tmp_path_factory.mktemp("world"))
    made.indexed(encoder)
    made.embedded()
    return made
