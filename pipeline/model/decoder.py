"""Answers from tensors of fixed shapes, which torch compiles once and replays: the fast path on a GPU.

`Reader.generate` lets its tensors grow with every token. Here prompt and answer have their places in one cache
from the start. Layers that read facts have places for them in front, which those below don't: a step computes
what the bare model's does, over a cache that is longer by the facts in some layers. The mask says what is
there, and facts add their shift to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import StaticCache
from transformers.cache_utils import StaticLayer

from pipeline.config import UserError
from pipeline.model.arena import FactArena, Read, head_sizes
from pipeline.model.attention import selected
from pipeline.model.compiling import Backend, Recorded, compiled
from pipeline.model.inbox import Inbox
from pipeline.model.reader import Reader
from pipeline.shapes import TokenIds

NAME = "sdpa_static"
ALIGNED = 8
"""Kernels want rows of a mask to begin at multiples of so many numbers."""


class Decoder:
    """The most likely answers of a language model, a fixed number of questions at a time.

    Args:
        reader: the frozen language model.
        questions: B of every batch.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        facts: tokens of facts that a question may read; 0 for the bare model.
        arena: holds these facts.
        backend: what torch compiles prefill and step with, once each; "" computes both as they are written.
            Without a GPU, "inductor" takes a C++ compiler.

    Raises:
        UserError: the model has layers with a window of their own.
    """

    def __init__(
        self,
        reader: Reader,
        questions: int,
        prompt: int,
        answer: int,
        facts: int = 0,
        arena: FactArena | None = None,
        backend: Backend = "inductor",
    ) -> None:
        self.reader, self.questions, self.prompt, self.answer = reader, questions, prompt, answer
        self.facts = -(-facts // ALIGNED) * ALIGNED
        device, dtype = reader.device, reader.lm.dtype
        self._arena = arena
        self._hidden = torch.finfo(dtype).min
        self._given = Inbox((questions, prompt + 1 + self.facts), torch.long, device)
        self._shifts = Inbox((questions, self.facts), torch.float32, device)
        # The places at which the next tokens stand, behind those of facts.
        self._at = torch.zeros((), dtype=torch.long, device=device)
        self._last = torch.zeros(questions, dtype=torch.long, device=device)
        self._lay_out(0 if arena is None else reader.layers - len(arena.states))
        self._prefill = compiled(self._forward, backend, f"prefill_of_{questions}")
        self._step = compiled(self._forward, backend, f"step_of_{questions}")
        record = bool(backend)
        self._read = Recorded(self._compute_prompts, device, record=record)
        self._say = Recorded(self._compute_next, device, [self._at, self._last], record)

    def _lay_out(self, first_layer: int) -> None:
        """Make the cache, whose layers from the first one that reads on share a tensor."""
        config = self.reader.lm.config
        length = self.prompt + self.answer
        self._cache = StaticCache(config=config, max_cache_len=length)
        if any(layer.is_sliding for layer in self._cache.layers):
            raise UserError(f"{config.model_type}: layers with a window have no places for facts; use Reader")
        groups, size = head_sizes(config)
        kind = {"dtype": self.reader.lm.dtype, "device": self.reader.device}
        shape = (self.reader.layers - first_layer, 2, self.questions, groups, self.facts + length, size)
        self._held: Float[Tensor, "layers 2 B G S D"] = torch.zeros(shape, **kind)
        below = torch.zeros(first_layer, 2, self.questions, groups, length, size, **kind)
        self._cache.layers = [_Layer(*states, self._at, 0) for states in below]
        self._cache.layers += [_Layer(*states, self._at, self.facts) for states in self._held]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the language model see facts at their places inside this block."""
        with selected(self.reader.lm, NAME, attend):
            yield

    def prefill(self, prompts: Sequence[Sequence[int]], facts: Read | None = None) -> Int[Tensor, " B"]:
        """Compute the prompts after `facts`; return the first token of each answer, until the next call.

        Raises:
            UserError: there are more questions, or more tokens of prompts or facts, than were planned for.
        """
        width, held = max(map(len, prompts), default=0), 0 if facts is None else facts.width
        if len(prompts) != self.questions or width > self.prompt or held > self.facts:
            raise UserError(
                f"{len(prompts)} questions with {width} tokens and {held} of facts don't fit a decoder that "
                f"was made for {self.questions} with {self.prompt} and {self.facts}"
            )
        self._check()
        given = self._given.opened()
        for row, prompt in enumerate(prompts):
            given[row, : self.prompt - len(prompt)] = self.reader.stop
            given[row, self.prompt - len(prompt) : self.prompt] = prompt
            given[row, self.prompt] = len(prompt)
        if self.facts:
            shifts = self._shifts.opened()
            shifts.fill(self._hidden)
            given[:, self.prompt + 1 :] = 0
            for row, (places, row_shifts) in enumerate(zip(*facts, strict=True) if facts else ()):
                given[row, self.prompt + 1 : self.prompt + 1 + len(places)] = places
                shifts[row, : len(places)] = row_shifts
            self._shifts.send()
        self._given.send()
        self._read()
        self.done = 0
        return self._last

    def step(self) -> Int[Tensor, " B"]:
        """Return the token that follows the last one, for each question, until the next call.

        Raises:
            UserError: the answers are as long as was planned for.
        """
        if self.done == self.answer:
            raise UserError(f"answers of more than {self.answer} tokens don't fit this decoder")
        self._check()
        self._say()
        self.done += 1
        return self._last

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], facts: Read | None = None) -> list[str]:
        """Return the most likely answers; inside `attached`."""
        return self.rest(self.prefill(prompts, facts))

    def rest(self, first: Int[Tensor, " B"]) -> list[str]:
        """Return the answers whose first tokens `prefill` has returned."""
        stop = self.reader.stop
        said = [first.clone()]
        going = first != stop
        while len(said) < self.answer and bool(going.any()):
            said.append(self.step().clone())
            going &= said[-1] != stop
        rows: Sequence[list[int]] = torch.stack(said, dim=1).tolist()
        kept = [row[: row.index(stop)] if stop in row else row for row in rows]
        texts = self.reader.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _check(self) -> None:
        # Compiled code goes on with the attention of its first call, whichever that was.
        assert self.reader.lm.config._attn_implementation == NAME, "a decoder computes inside `attached`"

    def _compute_prompts(self) -> None:
        if self._arena is not None and self.facts:
            places = self._given.tensor[:, self.prompt + 1 :]
            states = self._arena.states.index_select(3, places.flatten()).unflatten(3, places.shape)
            self._held[..., : self.facts, :].copy_(states.movedim(3, 2))
        self._at.zero_()
        self._last.copy_(self._prefill(self._given.tensor[:, : self.prompt]))
        self._at.fill_(self.prompt)

    def _compute_next(self) -> None:
        self._last.copy_(self._step(self._last[:, None]))
        self._at.add_(1)

    def _forward(self, ids: TokenIds) -> Tensor:
        lengths = self._given.tensor[:, self.prompt, None]
        at = self._at + torch.arange(ids.shape[1], device=ids.device)
        output = self.reader.lm(
            input_ids=ids,
            attention_mask=self._mask(lengths, at),
            position_ids=(at - self.prompt + lengths).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        best: Tensor = output.logits[:, -1].argmax(dim=-1)
        return best

    def _mask(self, lengths: Int[Tensor, "B 1"], at: Int[Tensor, " T"]) -> Float[Tensor, "B 1 HT S"]:
        """Return what is added to the logits: of facts their shifts, of the rest what is real and not later.

        The rows are repeated for the heads that share keys, as `attend` lays out their queries.
        """
        config, dtype = self.reader.lm.config, self.reader.lm.dtype
        places = torch.arange(self.prompt + self.answer, device=at.device)
        seen = (places >= self.prompt - lengths)[:, None] & (places <= at[:, None])
        mask = torch.zeros(seen.shape, dtype=dtype, device=at.device).masked_fill(~seen, self._hidden)
        if self.facts:
            shifts = self._shifts.tensor.to(dtype)[:, None].expand(-1, len(at), -1)
            mask = torch.cat([shifts, mask], dim=-1)
        return mask[:, None].repeat(1, 1, config.num_attention_heads // head_sizes(config)[0], 1)


class _Layer(StaticLayer):
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


def attend_once(
    query: Float[Tensor, "B G H D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    mask: Float[Tensor, "B 1 H S"],
    scale: float,
) -> Float[Tensor, "B G H D"]:
    """Attend with one query a head, by sums that are compiled to kernels over all places at once.

    Torch's own attention goes through the places of a head in turn, which takes the longer the more there are.
    """
    logits = (query[:, :, :, None] * key[:, :, None]).sum(dim=-1, dtype=torch.float32) * scale
    shares = (logits + mask).softmax(dim=-1)
    return (shares[..., None] * value[:, :, None]).sum(dim=-2).to(query.dtype)
