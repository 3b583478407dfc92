from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.serve.session import Session
    from pipeline.weights import Encoder, LanguageModel
    from tests.serve.served import Server
    from tests.serve.small import Trained
    from tests.tiny import SmallWorld


@pytest.fixture(scope="session")
def trained(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    from tests.serve.small import trained_folder

    return trained_folder(world, lm, encoder, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def session(trained: Trained) -> Session:
    """On the memory of the small world, where Q0 is Aland."""
    from pipeline.serve.session import Session

    return Session.open(trained.adapter, trained.memory)


@pytest.fixture(scope="module")
def calm(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared by tests that change nothing in its memory."""
    from tests.serve.served import serve_settings, served

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LIVING_MEMORY_TOKEN", raising=False)
        with served(serve_settings(trained, tmp_path_factory.mktemp("calm"))) as found:
            yield found


@pytest.fixture
def server(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With a memory of three facts, see `tests.serve.small`."""
    from tests.serve.served import serve_settings, served

    monkeypatch.delenv("LIVING_MEMORY_TOKEN", raising=False)
    with served(serve_settings(trained, tmp_path)) as found:
        yield found
