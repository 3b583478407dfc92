"""Some of a decoder's layers as a model of their own, for what stops before the last one or begins later."""

import copy
from typing import Any

from torch import nn

from pipeline.config import UserError
from pipeline.model.lowrank import decoder_layers


def with_layers(lm: Any, start: int, end: int) -> Any:
    """Return a model with the layers from `start` to before `end`, which shares its weights with `lm`.

    Its input, where `start` is above 0, is the states after the layers before, as `inputs_embeds`. Without
    the last layer its base model returns the states after its layers as they are.

    Raises:
        UserError: what normalises the last states isn't found.
    """
    tensors = [*lm.parameters(), *lm.buffers()]
    part = copy.deepcopy(lm, {id(tensor): tensor for tensor in tensors})
    layers = decoder_layers(part)
    last = end >= len(layers)
    for module in part.modules():
        for name, child in list(module.named_children()):
            if child is layers:
                setattr(module, name, nn.ModuleList(layers[start:end]))
                norms = [
                    name for name, other in module.named_children() if "norm" in name and other is not layers
                ]
                if not last and len(norms) != 1:
                    raise UserError(
                        f"{type(lm).__name__}: found {len(norms)} norms behind its layers, not one"
                    )
                if not last:
                    setattr(module, norms[0], nn.Identity())
                return part
    raise AssertionError("decoder_layers found them")
