"""Adapters on disk: the parameters in safetensors beside the configuration that rebuilds the system."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline.config import UserError
from pipeline.model.system import System


def save_adapter(system: System, folder: Path, configuration: dict[str, Any]) -> None:
    """Write the parameters of `system` and the dataclasses of `configuration` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in system.state_dict().items()}
    save_file(state, folder / "adapter.safetensors")
    plain = {name: asdict(section) for name, section in configuration.items()}
    text = json.dumps(plain, indent=1, sort_keys=True, default=str)
    (folder / "adapter.json").write_text(text + "\n", encoding="utf-8")


def load_adapter(system: System, folder: Path) -> None:
    """Put the parameters of `folder` into `system`.

    Raises:
        UserError: there is no adapter in the folder, or it belongs to another configuration.
    """
    file = folder / "adapter.safetensors"
    if not file.is_file():
        raise UserError(f"{file}: not found; train it first (`dvc repro`, or `python -m pipeline.train`)")
    try:
        state = load_file(file, device=str(system.reader.device))
    except Exception as error:  # safetensors raises a type of its own for each kind of damage
        raise UserError(f"{file}: damaged ({error}); delete its folder and train again") from error
    wanted = {name: tuple(value.shape) for name, value in system.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
        raise UserError(
            f"{file}: {odd} is {found.get(odd)}, but this configuration has {wanted.get(odd)}; "
            f"use the configuration in adapter.json beside it, or train again"
        )
    system.load_state_dict(state)
