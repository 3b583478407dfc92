"""A trained system whose answers come from what torch compiled and recorded: for a GPU that serves it."""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.model.ahead import Choices, FinderAhead
from pipeline.model.arena import FactArena, Read
from pipeline.model.compiling import Backend
from pipeline.model.decoder import Decoder
from pipeline.model.finder import Finder, Found
from pipeline.model.ours import OurSystem
from pipeline.model.system import Reply

LATELY = 8
"""Batches by which it is guessed how wide the facts of the next one are: as all of these but the widest."""
CLOSE = 1e-3
"""Nats that the host's log-shares may be off those of the device."""


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
        ahead: whether facts are read as soon as the device has chosen them, before the host knows which;
            where it finds that they don't stand there, they are read once more. On a GPU it gained little.
    """

    def __init__(
        self,
        system: OurSystem,
        questions: int,
        prompt: int,
        answer: int,
        facts: Sequence[int],
        backend: Backend = "inductor",
        ahead: bool = False,
    ) -> None:
        self.ahead, self.again = ahead, 0
        """Batches whose facts were read once more."""
        self._widths = deque([0] * LATELY, maxlen=LATELY)
        self.system, self.questions = system, questions
        self._prompt, self._facts, self._backend = prompt, max(facts), backend
        self._arena = FactArena(system.facts, system.method.fact_cache)
        reader = copy.copy(system.reader)
        reader.lm = system.lowrank.applied(system.reader.lm)
        self._finder: Finder | FinderAhead | None = None
        self._decoder = Decoder(reader, questions, prompt, answer, self._arena, facts, backend)
        self.renew()

    def renew(self) -> None:
        """Lay out anew what facts are found in."""
        front = self._decoder.front
        self._finder = None
        if Finder.suited(self.system) and front is not None:
            parts = self.system, self.questions
            self._finder = (
                FinderAhead(*parts, front, self._backend) if self.ahead else Finder(*parts, self._backend)
            )

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
        fits = fits and not self.system.method.isolate
        if fits:
            self._decoder.begin(prompts)  # meanwhile facts are looked for
        ahead = None
        if fits and isinstance(finder, FinderAhead):
            finder.await_choice()
            ahead = self._decoder.go_on(min(sorted(self._widths)[-2], self._facts))
        found = self._finished(finder, questions)
        if not fits:
            return None
        chosen, facts, same = self._chosen(questions, found)
        self._widths.append(facts.width)
        if facts.width > self._facts:
            return None
        if ahead is not None and same and facts.width <= self._decoder.width:
            self._decoder.narrow(facts.width)
            return chosen, ahead
        self.again += ahead is not None
        return chosen, self._decoder.finish(facts)

    @torch.no_grad()
    def found(self, questions: Sequence[str]) -> tuple[Reply, Read]:
        """Return a reply without texts, and where the facts to read stand: the first part of `first`."""
        return self._chosen(questions, self._finished(self._begun(questions), questions))[:2]

    def read(self, prompts: Sequence[Sequence[int]], facts: Read) -> Int[Tensor, " B"]:
        """Return the first tokens of the answers, until the next call: the second part of `first`."""
        return self._decoder.prefill(prompts, facts)

    def _begun(self, questions: Sequence[str]) -> Finder | FinderAhead | None:
        """Set out to find facts; return what does, None where it can't."""
        finder = self._finder
        if finder is None or not finder.follow() or not finder.begin(questions):
            return None
        return None if isinstance(finder, FinderAhead) and not finder.choose(questions) else finder

    def _finished(
        self, finder: Finder | FinderAhead | None, questions: Sequence[str]
    ) -> Found | Choices | None:
        """Return what was found, on the host; None where nothing was begun or what was is not to be used."""
        if finder is None or (isinstance(finder, FinderAhead) and not finder.word(questions)):
            return None
        return finder.finish()

    def _chosen(self, questions: Sequence[str], found: Found | Choices | None) -> tuple[Reply, Read, bool]:
        """Return a reply without texts, what is read for it, and whether the device chose just that."""
        system, memory = self.system, self.system.memory
        chosen, log_shares = system.select(questions) if found is None else system.chosen(*found[:3])
        shifts: list[list[float]] = log_shares.tolist()
        if not system.method.shift:
            shifts = [[0.0] * len(row) for row in shifts]
        texts = [memory.told(row) for row in chosen.facts]
        read = self._arena.read(texts, shifts)
        same = isinstance(found, Choices) and self._agreed(found, chosen, log_shares, texts)
        return chosen, read, same

    def _agreed(self, found: Choices, chosen: Reply, log_shares: Tensor, texts: list[list[str]]) -> bool:
        """Return whether the device read just that; tell it how facts stand where it did not."""
        assert isinstance(self._finder, FinderAhead)
        known, memory = self._finder.known, self.system.memory
        facts = (fact for row in chosen.facts for fact in row)
        places = dict(zip(facts, (self._arena.places(text) for row in texts for text in row), strict=True))
        read = found.read >= 0
        if (
            known.agrees(places)
            and [row[row >= 0].tolist() for row in found.read] == chosen.facts
            and bool(((found.log_shares - log_shares).abs() < CLOSE)[read].all())
        ):
            return True
        best: list[list[int]] = found.candidates.facts[:, : read.shape[1]].tolist()
        rows = sorted({fact for row in best for fact in row if fact >= 0})
        heads, relations, _ = memory.columns(torch.tensor(rows, dtype=torch.long)).tolist()
        slots = dict(zip(rows, zip(heads, relations, strict=True), strict=True))
        known.learn(places, slots, dict(zip(rows, memory.told(rows), strict=True)))
        return False

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

    @torch.no_grad()
    def spoken(self, question: str) -> tuple[Reply, Iterator[str]]:
        """Return what `reply` does to one question, but for the text, and the text piece by piece.

        The pieces are computed when they are asked for, until the next call of any method.
        """
        found = self.first([question]) if self.questions == 1 else None
        if found is None:
            with self.system.attached():
                reply = self.system.reply([question])
            return replace(reply, texts=[]), iter(reply.texts)
        chosen, first = found
        if chosen.refused[0] or not chosen.facts[0]:
            return chosen, iter([""])
        return chosen, (piece for [piece] in self._decoder.spoken(first, self.system.answer_tokens))
