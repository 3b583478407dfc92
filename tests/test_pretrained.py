"""The adapter that comes along fits the code: nothing that was added since would stop `make ask`."""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from pipeline.config import ROOT, section
from pipeline.memory.settings import Memory
from pipeline.model.settings import Ours
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened
from tests.tiny import SmallWorld

ADAPTERS = sorted((ROOT / "models" / "pretrained").iterdir())


def test_an_adapter_comes_along() -> None:
    assert "ours" in [folder.name for folder in ADAPTERS]


@pytest.mark.parametrize("folder", ADAPTERS, ids=[folder.name for folder in ADAPTERS])
def test_its_tensors_are_those_of_the_system(
    folder: Path, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """A tiny model has fewer layers and other widths, so numbers in names and lengths are left out."""
    told = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    section(Memory, told["memory"], "memory")
    changes = {"first_layer": 1, "state_layer": 2}
    method = section(Ours, told["method"] | changes, "method")
    system = opened(method, world, lm, encoder)
    wanted = {(_plain(name), value.ndim) for name, value in system.state_dict().items()}
    with safe_open(folder / "adapter.safetensors", "pt") as file:
        found = {(_plain(name), len(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    assert found == wanted


def _plain(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
