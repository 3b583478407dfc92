"""Answers from tensors of fixed shapes, which torch compiles once and replays: the fast path on a GPU.

`Reader.generate` lets its tensors grow with every token. Here the keys and values of facts, prompt and
answer have their places in one cache from the start, facts first, and the mask says what is there: facts add
their shift to it, and layers below the first one that reads don't see their places. A step then computes what
the bare model's does, over a cache that is longer by the facts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import StaticCache

from pipeline.config import UserError
from pipeline.model.attention import FactTokens, selected
from pipeline.model.reader import Reader, Tokens
from pipeline.shapes import TokenIds

NAME = "sdpa_static"

Backend = str | Callable[..., Any]
"""What torch compiles with, by its name or as a function of a graph and examples of its inputs."""


class Decoder:
    """The most likely answers of a language model, a fixed number of questions at a time.

    Args:
        reader: the frozen language model.
        questions: B of every batch.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        facts: tokens of facts that a question may read; 0 for the bare model.
        first_layer: lowest layer that reads facts.
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
        first_layer: int = 0,
        backend: Backend = "inductor",
    ) -> None:
        self.reader, self.prompt, self.answer, self.facts = reader, prompt, answer, facts
        self.first_layer = first_layer
        self.length = facts + prompt + answer
        config = reader.lm.config
        self.cache = StaticCache(config=config, max_cache_len=self.length)
        if any(layer.is_sliding for layer in self.cache.layers):
            raise UserError(f"{config.model_type}: layers with a window have no places for facts; use Reader")
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.cache.early_initialization(questions, heads, size, reader.lm.dtype, reader.device)
        self.hidden = torch.finfo(reader.lm.dtype).min
        self.mask: Float[Tensor, "B 1 1 S"] = torch.full(
            (questions, 1, 1, self.length), self.hidden, dtype=reader.lm.dtype, device=reader.device
        )
        self.positions = torch.zeros(questions, 1, dtype=torch.long, device=reader.device)
        self._lengths = [layer.cumulative_length for layer in self.cache.layers]
        self._start = torch.full_like(self._lengths[0], facts)
        self._prefill = self._compiled("prefill", backend)
        self._step = self._compiled("step", backend)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the language model see facts at their places inside this block."""
        with selected(self.reader.lm, NAME, self._attend):
            yield

    @torch.no_grad()
    def prefill(self, tokens: Tokens, facts: FactTokens | None = None) -> Int[Tensor, " B"]:
        """Compute the prompts after `facts`; return the first token of each answer.

        Raises:
            UserError: there are more questions, or more tokens of prompts or facts, than were planned for.
        """
        rows, width = tokens.ids.shape
        held = 0 if facts is None else facts.shift.shape[1]
        if rows != len(self.mask) or width > self.prompt or held > self.facts:
            raise UserError(
                f"{rows} questions with {width} tokens and {held} of facts don't fit a decoder that was "
                f"made for {len(self.mask)} with {self.prompt} and {self.facts}"
            )
        self.mask.fill_(self.hidden)
        if facts is not None:
            self.mask[:, 0, 0, :held] = facts.shift.to(self.mask)
            layers = self.cache.layers[self.first_layer :]
            places = [part[:, :, :held] for layer in layers for part in (layer.keys, layer.values)]
            read = [part for both in zip(facts.keys, facts.values, strict=True) for part in both]
            torch._foreach_copy_(places, read)
        torch._foreach_copy_(self._lengths, [self._start] * len(self._lengths))
        seen = F.pad(tokens.mask, (self.prompt - width, 0)).bool()
        ids = F.pad(tokens.ids, (self.prompt - width, 0), value=self.reader.stop)
        positions = (seen.cumsum(dim=-1) - 1).clamp(min=0)
        self.positions.copy_(positions[:, -1:])
        self.done = 0
        best = self._run(self._prefill, ids, positions, self._wide(seen))
        self.mask[:, 0, 0, self.facts : self.facts + self.prompt].masked_fill_(seen, 0.0)
        return best

    @torch.no_grad()
    def step(self, last: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the token that follows `last`, for each question."""
        self.mask[..., self.facts + self.prompt + self.done] = 0.0
        self.positions += 1
        self.done += 1
        return self._run(self._step, last[:, None], self.positions, self.mask)

    @torch.no_grad()
    def generate(self, tokens: Tokens, facts: FactTokens | None = None) -> list[str]:
        """Return the most likely answers; inside `attached`."""
        best = self.prefill(tokens, facts)
        said = [best]
        going = best != self.reader.stop
        while len(said) < self.answer and bool(going.any()):
            said.append(self.step(said[-1]))
            going &= said[-1] != self.reader.stop
        rows: Sequence[list[int]] = torch.stack(said, dim=1).tolist()
        kept = [row[: row.index(self.reader.stop)] if self.reader.stop in row else row for row in rows]
        texts = self.reader.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _compiled(self, name: str, backend: Backend) -> Callable[..., Tensor]:
        """Return `_forward`, compiled for the shapes of its first call, with code of its own.

        Torch keeps what it compiled with a function's code, eight times at most: were that shared, decoders
        would use it up for each other. Shapes, places and the attention are those of the first call for good,
        so nothing is checked at a call, and nothing that changes elsewhere compiles it anew.
        """
        if not backend:
            return self._forward
        plain = Decoder._forward
        code = plain.__code__.replace(co_name=f"{name}_of_{len(self.mask)}")
        own = FunctionType(code, plain.__globals__).__get__(self)
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        if backend == "inductor":
            options["triton.cudagraphs"] = True
        compiled: Callable[..., Tensor] = torch.compile(
            own, backend=backend, fullgraph=True, dynamic=False, options=options
        )
        return compiled

    def _run(
        self,
        compute: Callable[..., Tensor],
        ids: TokenIds,
        positions: TokenIds,
        mask: Float[Tensor, "B 1 T S"],
    ) -> Int[Tensor, " B"]:
        # Compiled code goes on with the attention of its first call, whichever that was.
        assert self.reader.lm.config._attn_implementation == NAME, "a decoder computes inside `attached`"
        return compute(ids, positions, mask).clone()  # a replayed graph writes to the same place again

    def _forward(self, ids: TokenIds, positions: TokenIds, mask: Float[Tensor, "B 1 T S"]) -> Tensor:
        output = self.reader.lm(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        best: Tensor = output.logits[:, -1].argmax(dim=-1)
        return best

    def _wide(self, seen: Bool[Tensor, "B P"]) -> Float[Tensor, "B 1 P S"]:
        """Return the mask of the prompts: facts, and of the prompt what is real and not later."""
        wide = self.mask.repeat(1, 1, self.prompt, 1)
        causal = torch.ones(self.prompt, self.prompt, dtype=torch.bool, device=seen.device).tril()
        part = wide[..., self.facts : self.facts + self.prompt]
        part.masked_fill_(seen[:, None, None, :] & causal, 0.0)
        return wide

    def _attend(
        self,
        module: nn.Module,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B G S D"],
        value: Float[Tensor, "B G S D"],
        attention_mask: Float[Tensor, "B 1 T S"],
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "B T H D"], None]:
        """Attend to all places that the mask shows; the signature is the transformers library's."""
        mask = attention_mask
        if self.facts and int(module.layer_idx) < self.first_layer:  # type: ignore[arg-type]
            mask = mask.masked_fill(torch.arange(self.length, device=mask.device) < self.facts, self.hidden)
        batch, heads, width, size = query.shape
        shared = heads // key.shape[1]
        if width == 1:  # the heads that share keys are the queries: no key is copied
            query = query.reshape(batch, key.shape[1], shared, size)
        else:
            key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        output = F.scaled_dot_product_attention(query, key, value, mask, scale=kwargs.get("scaling"))
        return output.reshape(batch, heads, width, size).transpose(1, 2).contiguous(), None
