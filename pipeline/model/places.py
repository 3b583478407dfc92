"""Where the tokens of a fixed decoder stand, and how its attention sees them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.cache_utils import StaticLayer
from transformers.masking_utils import sdpa_mask

from pipeline.config import UserError
from pipeline.model.inbox import Inbox
from pipeline.model.reader import Reader

NAME = "sdpa_static"


class Places:
    """Places for B prompts, which end together, and their answers; and the tensors that say who stands there.

    Args:
        reader: the language model.
        questions: B.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
    """

    def __init__(self, reader: Reader, questions: int, prompt: int, answer: int) -> None:
        self.prompt, self.answer, self.questions = prompt, answer, questions
        self.dtype, self._stop = reader.lm.dtype, reader.stop
        self.hidden = torch.finfo(self.dtype).min
        """What is added to the logit of a place that isn't seen."""
        groups, _ = head_sizes(reader.lm.config)
        self._sharing = reader.lm.config.num_attention_heads // groups
        self._given = Inbox((questions, prompt + 1), torch.long, reader.device)
        self.at = torch.zeros((), dtype=torch.long, device=reader.device)
        """The place of the next token."""
        self.last = torch.zeros(questions, dtype=torch.long, device=reader.device)
        """The last token of each answer."""

    @property
    def prompts(self) -> Int[Tensor, "B P"]:
        """Token ids of the prompts, padded in front."""
        return self._given.tensor[:, : self.prompt]

    def take(self, prompts: Sequence[Sequence[int]]) -> None:
        """Take prompts, as many as there are places for, none of them too long."""
        given = self._given.opened()
        given[:, : self.prompt] = self._stop
        for row, prompt in enumerate(prompts):
            given[row, self.prompt - len(prompt) : self.prompt] = prompt
            given[row, self.prompt] = len(prompt)
        self._given.send()

    def positions(self, width: int) -> Int[Tensor, "B T"]:
        """Return the position of the next `width` tokens, the first real token's being 0."""
        at = self.at + torch.arange(width, device=self.at.device)
        return (at - self.prompt + self._given.tensor[:, self.prompt :]).clamp(min=0)

    def mask(self, width: int, shifts: Float[Tensor, "B J"] | None = None) -> Float[Tensor, "B 1 HT S"]:
        """Return what the next `width` tokens add to their logits: of what is real and not later, nothing.

        The rows are repeated for the heads that share keys, as `attend` lays out their queries.

        Args:
            width: T.
            shifts: of the facts' tokens, which come before all other places.
        """
        at = self.at + torch.arange(width, device=self.at.device)
        places = torch.arange(self.prompt + self.answer, device=self.at.device)
        real = places >= self.prompt - self._given.tensor[:, self.prompt :]
        seen = real[:, None] & (places <= at[:, None])
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=at.device).masked_fill(~seen, self.hidden)
        if shifts is not None:
            mask = torch.cat([shifts.to(self.dtype)[:, None].expand(-1, width, -1), mask], dim=-1)
        return mask[:, None].repeat(1, 1, self._sharing, 1)


class Layer(StaticLayer):  # type: ignore[misc]
    """Keys and values of a layer, written to from a place on that others share.

    Args:
        keys: of all places.
        values: likewise.
        at: the place of the next token, behind those of facts.
        facts: places of facts.
    """

    def __init__(
        self, keys: Float[Tensor, "B G S D"], values: Float[Tensor, "B G S D"], at: Tensor, facts: int
    ) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self._at, self._facts = keys, values, at, facts
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write them to their places; return all."""
        places = self._at + self._facts + torch.arange(key_states.shape[2], device=self.device)
        self.keys.index_copy_(2, places, key_states)
        self.values.index_copy_(2, places, value_states)
        return self.keys, self.values


def head_sizes(config: Any) -> tuple[int, int]:
    """Return G and D of a language model, from its configuration."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return int(groups), int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def cache_of(reader: Reader, layers: Sequence[Layer]) -> StaticCache:
    """Return a cache of these layers.

    Raises:
        UserError: the model has layers with a window of their own.
    """
    config = reader.lm.config
    cache = StaticCache(config=config, max_cache_len=layers[-1].max_cache_len)
    if any(layer.is_sliding for layer in cache.layers):
        raise UserError(f"{config.model_type}: layers with a window have no places for facts; use Reader")
    cache.layers = list(layers)
    return cache


def attend(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    attention_mask: Float[Tensor, "B 1 HT S"],
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Attend to all places that the mask shows; the signature is the transformers library's.

    The heads that share keys are queries of one head: no key is copied. Facts come first, and a layer that
    doesn't read any has no places for them: the last columns of the mask are its own.
    """
    batch, heads, width, size = query.shape
    query = query.reshape(batch, key.shape[1], -1, size)
    mask = attention_mask[..., -key.shape[2] :]
    if width == 1:
        output = attend_once(query, key, value, mask, kwargs.get("scaling") or size**-0.5)
    else:
        output = F.scaled_dot_product_attention(query, key, value, mask, scale=kwargs.get("scaling"))
    return output.reshape(batch, heads, width, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attend_once(
    query: Float[Tensor, "B G H D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    mask: Float[Tensor, "B 1 H S"],
    scale: float,
) -> Float[Tensor, "B G H D"]:
    """Attend with one query a head, by sums that are compiled to kernels over all places at once.

    Torch's own attention goes through a head's places in turn, which takes the longer the more there are.
    """
    logits = (query[:, :, :, None] * key[:, :, None]).sum(dim=-1, dtype=torch.float32) * scale
    shares = (logits + mask).softmax(dim=-1)
    return (shares[..., None] * value[:, :, None]).sum(dim=-2).to(query.dtype)
