"""A trained system whose answers come from what torch compiled and recorded: for a GPU that serves it."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.model.arena import FactArena, Read
from pipeline.model.compiling import Backend
from pipeline.model.decoder import Decoder
from pipeline.model.finder import Finder, Found
from pipeline.model.ours import OurSystem
from pipeline.model.system import Reply


class Fast:
    """The replies of a system to a fixed number of questions at a time, as `OurSystem.reply` gives them.

    Whatever has no fixed shape is left to the system itself: other numbers of questions, long ones, two hops,
    and finding facts in memories that `pipeline.memory.tables` doesn't hold. What changes in the memory is
    found by the next question; after very many changes, or in a view of another date, it takes longer to
    find, until `renew`. One thread may ask at a time.

    Args:
        system: trained, and not trained on.
        questions: B of every batch.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        facts: tokens of facts that a question may read; of several numbers the least that is enough counts.
        backend: what torch compiles with; "" computes everything as it is written.
    """

    def __init__(
        self,
        system: OurSystem,
        questions: int,
        prompt: int,
        answer: int,
        facts: Sequence[int],
        backend: Backend = "inductor",
    ) -> None:
        self.system, self.questions = system, questions
        self._prompt, self._facts, self._backend = prompt, max(facts), backend
        self._arena = FactArena(system.facts, system.method.fact_cache)
        reader = copy.copy(system.reader)
        reader.lm = system.lowrank.applied(system.reader.lm)
        self._decoder = Decoder(reader, questions, prompt, answer, self._arena, facts, backend)
        self.renew()

    def renew(self) -> None:
        """Lay out anew what facts are found in."""
        suited = Finder.suited(self.system)
        self._finder = Finder(self.system, self.questions, self._backend) if suited else None

    @property
    def current(self) -> bool:
        """Whether facts are found in fixed shapes, as the memory is now."""
        return self._finder is not None and self._finder.follow()

    def warm(self) -> None:
        """Compile and record everything, which takes a minute or so."""
        self._decoder.warm()
        if self._finder is not None and self._finder.follow():
            self._finder.warm()

    def forget(self) -> None:
        """Drop what was computed of facts."""
        self._arena.clear()

    def step(self) -> Int[Tensor, " B"]:
        """Return the tokens that follow those of `first`, until the next call."""
        return self._decoder.step()

    @torch.no_grad()
    def first(self, questions: Sequence[str]) -> tuple[Reply, Int[Tensor, " B"]] | None:
        """Return a reply without texts and the first tokens of the answers, until the next call.

        What is refused is read all the same. None where the questions don't fit.
        """
        finder = self._begun(questions)
        prompts = self.system.reader.prompts(questions)
        fits = len(questions) == self.questions and max(map(len, prompts), default=0) <= self._prompt
        if fits and not self.system.method.isolate:
            self._decoder.begin(prompts)  # meanwhile facts are looked for
        found = None if finder is None else finder.finish()
        if not fits or self.system.method.isolate:
            return None
        chosen, facts = self._chosen(questions, found)
        return None if facts.width > self._facts else (chosen, self._decoder.finish(facts))

    @torch.no_grad()
    def found(self, questions: Sequence[str]) -> tuple[Reply, Read]:
        """Return a reply without texts, and where the facts to read stand: the first part of `first`."""
        finder = self._begun(questions)
        return self._chosen(questions, None if finder is None else finder.finish())

    def read(self, prompts: Sequence[Sequence[int]], facts: Read) -> Int[Tensor, " B"]:
        """Return the first tokens of the answers, until the next call: the second part of `first`."""
        return self._decoder.prefill(prompts, facts)

    def _begun(self, questions: Sequence[str]) -> Finder | None:
        finder = self._finder
        return finder if finder is not None and finder.follow() and finder.begin(questions) else None

    def _chosen(self, questions: Sequence[str], found: Found | None) -> tuple[Reply, Read]:
        system = self.system
        chosen, log_shares = system.select(questions) if found is None else system.chosen(*found)
        shifts: list[list[float]] = log_shares.tolist()
        if not system.method.shift:
            shifts = [[0.0] * len(row) for row in shifts]
        return chosen, self._arena.read([system.memory.told(row) for row in chosen.facts], shifts)

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, the facts that were read with their probabilities, and the null fact's."""
        found = self.first(questions)
        if found is None:
            with self.system.attached():
                return self.system.reply(questions)
        chosen, first = found
        answers = self._decoder.rest(first, self.system.answer_tokens)
        kept = zip(answers, chosen.refused, chosen.facts, strict=True)
        return replace(chosen, texts=["" if no or not facts else text for text, no, facts in kept])
