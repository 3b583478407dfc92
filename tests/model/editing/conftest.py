"""Tiny language models of each type, with a cache of their own, and LoRA's library."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.model.reader import Reader
from tests.tiny import FAMILIES, tiny_language_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Second moments are kept by their weights, so all tests may share them."""
    folder = tmp_path_factory.getbasetemp() / "moments"
    monkeypatch.setenv("KG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reader]:
    """What gives the reader of a family; each test must leave its weights as they were."""
    made: dict[str, Reader] = {}

    def reader(family: str) -> Reader:
        if family not in made:
            made[family] = Reader(tiny_language_model(tmp_path_factory.mktemp(family), family), "cpu")
        return made[family]

    return reader


@pytest.fixture(params=FAMILIES)
def reader(request: pytest.FixtureRequest, readers: Callable[[str], Reader]) -> Reader:
    """The reader of each family in turn."""
    return readers(request.param)


@pytest.fixture
def llama(readers: Callable[[str], Reader]) -> Reader:
    """The reader of the default model's type."""
    return readers("llama")
