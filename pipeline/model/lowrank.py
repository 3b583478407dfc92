r"""Low-rank changes of a frozen model's projections: W x + (α/r) · U V x (LoRA, arXiv 2106.09685, eq. 3)."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import UserError


def decoder_layers(lm: Any) -> nn.ModuleList:
    """Return the stack of layers of a decoder or an encoder of the transformers library.

    Raises:
        UserError: the model has no list of as many modules as its configuration counts layers.
    """
    count = lm.config.num_hidden_layers
    for module in (*lm.base_model.children(), *lm.base_model.modules()):
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(lm).__name__}: found no stack of {count} layers, so nothing can be attached to it"
    )


class LowRank(nn.Module):
    """One low-rank change for each named projection of the layers from `first_layer` on.

    The change is zero at the start. Parameters are float32; the change is computed in the type of its input.

    Args:
        lm: the model to attach to; it isn't kept.
        projections: names of linear modules inside a layer, such as `q_proj`.
        first_layer: lowest layer that is changed.
        rank: r.
        alpha: α.

    Raises:
        UserError: a layer has no module of that name.
    """

    def __init__(
        self, lm: Any, projections: Sequence[str], first_layer: int, rank: int, alpha: float
    ) -> None:
        super().__init__()
        self.scale = alpha / rank
        self._places: list[tuple[int, str]] = []
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        layers = decoder_layers(lm)
        if not 0 <= first_layer < len(layers):
            raise UserError(f"first_layer is {first_layer}, but the model has layers 0 to {len(layers) - 1}")
        for number in range(first_layer, len(layers)):
            linear = {name: m for name, m in layers[number].named_modules() if hasattr(m, "in_features")}
            for projection in projections:
                found = [name for name in linear if name.split(".")[-1] == projection]
                if not found:
                    known = sorted({name.split(".")[-1] for name in linear})
                    raise UserError(
                        f"layer {number} has no projection {projection!r}; it has {', '.join(known)}"
                    )
                module = linear[found[0]]
                self._places.append((number, found[0]))
                self.down.append(nn.Parameter(torch.empty(rank, module.in_features)))
                self.up.append(nn.Parameter(torch.zeros(module.out_features, rank)))
                nn.init.kaiming_uniform_(self.down[-1], a=5**0.5)

    @contextmanager
    def attached(self, lm: Any) -> Iterator[None]:
        """Add the changes to the outputs of `lm`'s projections inside this block."""
        layers = decoder_layers(lm)
        handles = []
        try:
            for place, (number, name) in enumerate(self._places):
                handles.append(layers[number].get_submodule(name).register_forward_hook(self._hook(place)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def applied(self, lm: Any) -> Any:
        """Return a model that has the changes in its weights and shares all others with `lm`.

        Nothing more is computed than by `lm`. In a narrow type the sum is rounded. Later changes of these
        parameters don't reach it.
        """
        tensors = [*lm.parameters(), *lm.buffers()]
        other = copy.deepcopy(lm, {id(tensor): tensor for tensor in tensors})
        layers = decoder_layers(other)
        for (number, name), down, up in zip(self._places, self.down, self.up, strict=True):
            module: Any = layers[number].get_submodule(name)
            changed = module.weight.float() + self.scale * up.float() @ down.float()
            module.weight = nn.Parameter(changed.to(module.weight.dtype), requires_grad=False)
        return other

    def _hook(self, place: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            down = self.down[place].to(inputs[0].dtype)
            up = self.up[place].to(inputs[0].dtype)
            return output + self.scale * F.linear(F.linear(inputs[0], down), up)

        return add
