"""What a decoder of fixed shapes computes: prompts below the first layer that reads, the rest, and a step."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import StaticCache

from pipeline.model.arena import FactArena, Front
from pipeline.model.compiling import Backend, Recorded, compiled
from pipeline.model.places import Places

Held = Float[Tensor, "layers 2 B G S D"]
"""Keys and values at places of a cache."""


class Below:
    """The layers that read no facts, of the prompts.

    Args:
        model: those layers.
        cache: theirs.
        places: of the prompts.
        states: take what comes out.
        backend: see `compiled`.
    """

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


class FrontFacts:
    """The facts of a batch, at their places in the layers that read them.

    Args:
        arena: holds their keys and values.
        held: takes them.
        width: places of a question.
        front: which stand there, in its last places.
    """

    def __init__(self, arena: FactArena, held: Held, width: int, front: Front) -> None:
        self.width, self._arena, self._held, self._front = width, arena, held, front

    @property
    def shifts(self) -> Float[Tensor, "B J"]:
        """What is added to the logits of each place, in nats."""
        return self._front.shifts[:, self._front.width - self.width :]

    def copy(self) -> None:
        """Put them into their places."""
        places = self._front.places[:, self._front.width - self.width :]
        states = self._arena.states.index_select(3, places.flatten())
        rows = states.view(*states.shape[:3], *places.shape, states.shape[-1])
        self._held[..., : self.width, :].copy_(rows.movedim(3, 2))


class Reading:
    """Prefill and step with as many places for facts.

    Args:
        whole: all layers.
        above: those from the first that reads on.
        begun: states below it, of the prompts; None where all layers read.
        cache: of all layers.
        places: of prompts and answers.
        facts: what is read; None for the bare model.
        backend: see `compiled`.
    """

    def __init__(
        self,
        whole: Any,
        above: Any,
        begun: Float[Tensor, "B P C"] | None,
        cache: StaticCache,
        places: Places,
        facts: FrontFacts | None,
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
        """Compute the prompts; return the first token of each answer, until the next call."""
        self._prompts()
        return self._places.last

    def step(self) -> Int[Tensor, " B"]:
        """Return the next token of each answer, until the next call."""
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
