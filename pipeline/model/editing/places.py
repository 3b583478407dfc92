"""Which weights an edit touches, for each type of language model, and how they are read and put back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.model.lowrank import decoder_layers


class Names(NamedTuple):
    """What a type of language model calls its parts inside a layer."""

    down: str
    """The MLP's projection back to the hidden size, whose weights hold facts."""
    norm: str | None = None
    """A norm between that projection and the residual stream, where there is one."""
    attention: tuple[str, ...] = ("q_proj", "v_proj")
    """Projections that LoRA changes by default."""


GATED = Names("mlp.down_proj")
NAMES = {
    "llama": GATED,
    "mistral": GATED,
    "qwen2": GATED,
    "qwen3": GATED,
    "gemma": GATED,
    "gemma3_text": Names("mlp.down_proj", "post_feedforward_layernorm"),
    "gpt_neox": Names("mlp.dense_4h_to_h", None, ("query_key_value",)),
}
"""By the `model_type` of the transformers library."""


def names(lm: Any) -> Names:
    """Return what the language model calls its parts.

    Raises:
        UserError: its type is in no row of the table.
    """
    kind = lm.config.model_type
    if kind not in NAMES:
        raise UserError(
            f"models of type {kind!r} can't be edited: known are {', '.join(sorted(NAMES))}; "
            "add what it calls its down projection to pipeline/model/editing/places.py"
        )
    return NAMES[kind]


def layer(lm: Any, number: int) -> nn.Module:
    """Return a layer.

    Raises:
        UserError: the model has fewer layers.
    """
    layers = decoder_layers(lm)
    if not 0 <= number < len(layers):
        raise UserError(f"method.layers: there is no layer {number}; the model has 0 to {len(layers) - 1}")
    return layers[number]


def down(lm: Any, number: int) -> nn.Linear:
    """Return the down projection of a layer; its weight W is [C, I] with the MLP's inner size I."""
    found = layer(lm, number).get_submodule(names(lm).down)
    assert isinstance(found, nn.Linear)
    return found


class StoppedError(Exception):
    """What was wanted has been computed."""


@contextmanager
def watched(module: nn.Module, see: Callable[[tuple[Any, ...], Any], Any]) -> Iterator[None]:
    """Call `see` with the inputs and the output of `module`; what it returns, if anything, is the output."""
    handle = module.register_forward_hook(lambda _, inputs, output: see(inputs, output))
    try:
        yield
    finally:
        handle.remove()


def state(output: Any) -> Tensor:
    """Return the states of what a module gave, which may be a tuple that begins with them."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def gain(lm: Any, number: int, output: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
    """Return by what the residual stream gets of each entry of a down projection's output.

    One where the output is added as it is; with a norm in between (Gemma 3), the norm's factor at that
    output,
    its root mean square held still.
    """
    between = names(lm).norm
    if between is None:
        return torch.ones_like(output)
    norm = layer(lm, number).get_submodule(between)
    entries = torch.where(output.abs() < 1e-12, torch.full_like(output, 1e-12), output)
    given: Tensor = norm(entries)
    return given / entries


class Kept:
    """Copies of weights as they were, for putting back.

    Args:
        weights: parameters of a language model, by name.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights = weights
        self._former = {name: weight.detach().clone() for name, weight in weights.items()}

    @property
    def bytes(self) -> int:
        """What the copies take."""
        return sum(weight.nbytes for weight in self._former.values())

    @torch.no_grad()
    def restore(self) -> None:
        """Write every weight as it was, bit for bit."""
        for name, weight in self._weights.items():
            weight.copy_(self._former[name])
