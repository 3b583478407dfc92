"""Answers from tensors of fixed shapes, which torch compiles once and replays: the fast path on a GPU.

`Reader.generate` lets its tensors grow with every token. Here prompt and answer have their places in a cache
from the start. Layers that read facts have places for them in front, which those below don't: a step computes
what the bare model's does, over a cache that is longer by the facts in some layers. The mask says what is
there, and facts add their shift to it. The layers below need no facts, so they are computed while these are
still looked for.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import StaticCache

from pipeline.config import UserError
from pipeline.model.arena import FactArena, Front, Read
from pipeline.model.compiling import Backend, Recorded, compiled
from pipeline.model.parts import with_layers
from pipeline.model.pieces import Pieces
from pipeline.model.places import NAME, Layer, Places, cache_of, head_sizes
from pipeline.model.reader import Reader

ALIGNED = 8
"""Kernels want rows of a mask to begin at multiples of so many numbers."""

Held = Float[Tensor, "layers 2 B G S D"]
"""Keys and values at places of a cache."""


class Decoder:
    """The most likely answers of a language model, a fixed number of questions at a time.

    Args:
        reader: the frozen language model; later changes of its attention don't count.
        questions: B of every batch.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        arena: holds the facts that are read; None for the bare model.
        facts: tokens of facts that a question may read; of several numbers the least that is enough counts.
        backend: what torch compiles prefill and step with, for each of `facts`; "" computes both as they are
            written. Without a GPU, "inductor" takes a C++ compiler.

    Raises:
        UserError: the model has layers with a window of their own.
    """

    def __init__(
        self,
        reader: Reader,
        questions: int,
        prompt: int,
        answer: int,
        arena: FactArena | None = None,
        facts: Sequence[int] = (0,),
        backend: Backend = "inductor",
    ) -> None:
        self.reader = reader
        self._places = Places(reader, questions, prompt, answer)
        first = reader.layers - len(arena.states) if arena is not None else 0
        widths = sorted({-(-width // ALIGNED) * ALIGNED for width in facts})
        groups, size = head_sizes(reader.lm.config)
        own = {"dtype": reader.lm.dtype, "device": reader.device}
        # Layers that read have room for the most facts; with fewer, the places next to the prompt are used.
        under = torch.zeros(first, 2, questions, groups, prompt + answer, size, **own)
        over = torch.zeros(
            reader.layers - first, 2, questions, groups, widths[-1] + prompt + answer, size, **own
        )
        below = [Layer(states[0], states[1], self._places.at, 0) for states in under]
        whole = _own(reader, 0, reader.layers)
        above, self._below, begun = whole, None, None
        if first:
            begun = torch.zeros(questions, prompt, reader.hidden, **own)
            cache = cache_of(reader, below)
            self._below = _Below(_own(reader, 0, first), cache, self._places, begun, backend)
            above = _own(reader, first, reader.layers)
        self.front = None
        """Where facts are told of; None for the bare model."""
        if arena is not None:
            self.front = Front(questions, widths[-1], self._places.hidden, reader.device)
        self._readings = []
        for width in widths:
            held = over[..., widths[-1] - width :, :]
            cache = cache_of(
                reader, below + [Layer(states[0], states[1], self._places.at, width) for states in held]
            )
            facts_of = None if arena is None or self.front is None else _Facts(arena, held, width, self.front)
            self._readings.append(_Reading(whole, above, begun, cache, self._places, facts_of, backend))
        self._now = self._readings[-1]
        self.done = 0
        """Steps since the last prefill."""

    @property
    def width(self) -> int:
        """Places for the tokens of facts in the last prefill and the steps after it."""
        return self._now.width

    def prefill(self, prompts: Sequence[Sequence[int]], facts: Read | None = None) -> Int[Tensor, " B"]:
        """Compute the prompts after `facts`; return the first token of each answer, until the next call.

        Raises:
            UserError: there are more questions, or more tokens of prompts or facts, than were planned for.
        """
        self.begin(prompts)
        return self.finish(facts)

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compute the prompts as far as they need no facts.

        Raises:
            UserError: there are more questions, or more tokens, than were planned for.
        """
        width, places = max(map(len, prompts), default=0), self._places
        if len(prompts) != places.questions or width > places.prompt:
            raise UserError(
                f"{len(prompts)} questions with {width} tokens don't fit a decoder that was made for "
                f"{places.questions} with {places.prompt}"
            )
        places.take(prompts)
        if self._below is not None:
            self._below.run()

    def finish(self, facts: Read | None = None) -> Int[Tensor, " B"]:
        """Compute the rest of the prompts, after `facts`; return as `prefill` does.

        Raises:
            UserError: there are more tokens of facts than were planned for.
        """
        self.narrow(0 if facts is None else facts.width)
        if self.front is not None:
            self.front.take(facts)
        return self._now.prefill()

    def go_on(self, width: int) -> Int[Tensor, " B"]:
        """Do as `finish`, after at most `width` tokens of facts that the device itself has put in `front`."""
        self.narrow(width)
        return self._now.prefill()

    def narrow(self, width: int) -> None:
        """Step from here on with places for `width` tokens of facts, no fewer than were read.

        Raises:
            UserError: there are more tokens of facts than were planned for.
        """
        enough = [reading for reading in self._readings if width <= reading.width]
        if not enough:
            raise UserError(
                f"{width} tokens of facts don't fit a decoder that was made for {self._readings[-1].width}"
            )
        self._now, self.done = enough[0], 0

    def step(self) -> Int[Tensor, " B"]:
        """Return the token that follows the last one, for each question, until the next call.

        Raises:
            UserError: the answers are as long as was planned for.
        """
        if self.done == self._places.answer:
            raise UserError(f"answers of more than {self.done} tokens don't fit this decoder")
        self.done += 1
        return self._now.step()

    def generate(self, prompts: Sequence[Sequence[int]], facts: Read | None = None) -> list[str]:
        """Return the most likely answers."""
        return self.rest(self.prefill(prompts, facts))

    def rest(self, first: Int[Tensor, " B"], limit: int | None = None) -> list[str]:
        """Return the answers whose first tokens `prefill` has returned, of at most `limit` tokens."""
        stop, most = self.reader.stop, limit or self._places.answer
        said = [first.clone()]
        going = first != stop
        while len(said) < most and bool(going.any()):
            said.append(self.step().clone())
            going &= said[-1] != stop
        rows: Sequence[list[int]] = torch.stack(said, dim=1).tolist()
        kept = [row[: row.index(stop)] if stop in row else row for row in rows]
        texts = self.reader.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def spoken(self, first: Int[Tensor, " B"], limit: int | None = None) -> Iterator[list[str]]:
        """Yield what each answer goes on with, token by token; joined, the pieces are what `rest` returns."""
        most, tokens = limit or self._places.answer, first
        said = [Pieces(self.reader.tokenizer, self.reader.stop) for _ in range(len(first))]
        for count in range(most):
            if count:
                tokens = self.step()
            told = zip(said, tokens.tolist(), strict=True)
            yield ["" if part.ended else part.add(token) for part, token in told]
            if all(part.ended for part in said):
                return
        yield ["" if part.ended else part.end() for part in said]

    def warm(self) -> None:
        """Compile and record everything."""
        for reading in self._readings:
            self.begin([[self.reader.stop]] * self._places.questions)
            if self.front is not None:
                self.front.take(None)
            reading.prefill()
            reading.step()


def _own(reader: Reader, start: int, end: int) -> Any:
    """Return these layers as a model that attends as `pipeline.model.places` has it."""
    model = with_layers(reader.lm, start, end)
    model.set_attn_implementation(NAME)
    return model


class _Below:
    """The layers that read no facts, of the prompts."""

    def __init__(
        self, model: Any, cache: StaticCache, places: Places, states: Float[Tensor, "B P C"], backend: Backend
    ) -> None:
        self._model, self._cache, self._places, self._states = model.base_model, cache, places, states
        self._compiled = compiled(self._forward, backend, f"below_of_{places.questions}")
        self.run = Recorded(self._compute, states.device, record=bool(backend))

    def _compute(self) -> None:
        self._places.at.zero_()
        self._states.copy_(self._compiled())

    def _forward(self) -> Float[Tensor, "B P C"]:
        places = self._places
        states: Tensor = self._model(
            input_ids=places.prompts,
            attention_mask=places.mask(places.prompt),
            position_ids=places.positions(places.prompt),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states


class _Facts:
    """The facts of a batch, at their places."""

    def __init__(self, arena: FactArena, held: Held, width: int, front: Front) -> None:
        self.width, self._arena, self._held, self._front = width, arena, held, front

    @property
    def shifts(self) -> Float[Tensor, "B J"]:
        return self._front.shifts[:, self._front.width - self.width :]

    def copy(self) -> None:
        places = self._front.places[:, self._front.width - self.width :]
        states = self._arena.states.index_select(3, places.flatten())
        rows = states.view(*states.shape[:3], *places.shape, states.shape[-1])
        self._held[..., : self.width, :].copy_(rows.movedim(3, 2))


class _Reading:
    """Prefill and step with as many places for facts."""

    def __init__(
        self,
        whole: Any,
        above: Any,
        begun: Float[Tensor, "B P C"] | None,
        cache: StaticCache,
        places: Places,
        facts: _Facts | None,
        backend: Backend,
    ) -> None:
        self._whole, self._above, self._begun, self._cache = whole, above, begun, cache
        self._places, self._facts = places, facts
        self.width = 0 if facts is None else facts.width
        sizes = f"of_{places.questions}_after_{self.width}"
        self._read = compiled(self._read_prompts, backend, f"prefill_{sizes}")
        self._say = compiled(self._say_next, backend, f"step_{sizes}")
        device, state = places.at.device, [places.at, places.last]
        self._prompts = Recorded(self._compute_prompts, device, record=bool(backend))
        self._next = Recorded(self._compute_next, device, state, bool(backend))

    def prefill(self) -> Int[Tensor, " B"]:
        self._prompts()
        return self._places.last

    def step(self) -> Int[Tensor, " B"]:
        self._next()
        return self._places.last

    def _compute_prompts(self) -> None:
        if self._facts is not None:
            self._facts.copy()
        self._places.at.zero_()
        self._places.last.copy_(self._read())
        self._places.at.fill_(self._places.prompt)

    def _compute_next(self) -> None:
        self._places.last.copy_(self._say())
        self._places.at.add_(1)

    def _read_prompts(self) -> Int[Tensor, " B"]:
        if self._begun is None:
            return self._best(self._whole, self._places.prompt, input_ids=self._places.prompts)
        return self._best(self._above, self._places.prompt, inputs_embeds=self._begun)

    def _say_next(self) -> Int[Tensor, " B"]:
        return self._best(self._whole, 1, input_ids=self._places.last[:, None])

    def _best(self, model: Any, width: int, **inputs: Tensor) -> Int[Tensor, " B"]:
        """Return the most likely token after the next `width` ones."""
        output = model(
            attention_mask=self._places.mask(width, None if self._facts is None else self._facts.shifts),
            position_ids=self._places.positions(width),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        best: Tensor = output.logits[:, -1].argmax(dim=-1)
        return best
