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
from jaxtyping import Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.model.arena import FactArena, Front, Read
from pipeline.model.compiling import Backend
from pipeline.model.parts import with_layers
from pipeline.model.pieces import Pieces
from pipeline.model.places import NAME, Layer, Places, cache_of, head_sizes
from pipeline.model.reader import Reader
from pipeline.model.readings import Below, FrontFacts, Reading

ALIGNED = 8
"""Kernels want rows of a mask to begin at multiples of so many numbers."""


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
            self._below = Below(_own(reader, 0, first), cache, self._places, begun, backend)
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
            facts_of = FrontFacts(arena, held, width, self.front) if arena and self.front else None
            self._readings.append(Reading(whole, above, begun, cache, self._places, facts_of, backend))
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
