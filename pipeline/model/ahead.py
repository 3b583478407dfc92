"""From questions to what is read for them, in fixed shapes and without the host in between.

On a GPU a few replays compute what `OurSystem.select` does, and where the tokens of the facts that are read
stand; so whatever reads them on the device need not wait until the host knows them.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.facts import Candidates
from pipeline.memory.tables import Tables
from pipeline.model.arena import Front
from pipeline.model.compiling import Backend
from pipeline.model.finder import LATE, WIDTHS
from pipeline.model.known import Known
from pipeline.model.lettertables import LetterTables
from pipeline.model.ours import OurSystem
from pipeline.model.stages import Asked, Choosing, Encoding, Searching, Spelled, Wording

SHORT = 4
"""Tokens of a fact at least, on average over those whose place the device is to know."""


class Choices(NamedTuple):
    """What was found for B questions, on the host."""

    candidates: Candidates
    """By falling score; of the scores, only the k best."""
    null: Float[Tensor, "B 1"]
    """The null fact's score."""
    doubt: Float[Tensor, " B"]
    """Probability that no fact answers."""
    read: Int[Tensor, "B k"]
    """What the device chose, by falling share; -1 behind it."""
    log_shares: Float[Tensor, "B k"]
    """Log-probabilities of the k best facts, by falling share, as the device has them."""


class FinderAhead:
    """Finds the facts that a fixed number of questions ask for, and chooses those that are read.

    For each batch `follow`, `begin`, `choose`, `word` and `finish` are called in turn.

    Args:
        system: a trained system that `Finder.suited` says yes to.
        questions: B of every batch.
        front: takes where the tokens of the facts that are read stand.
        backend: what torch compiles it with, for each of `WIDTHS`; "" computes it as it is written.
    """

    def __init__(self, system: OurSystem, questions: int, front: Front, backend: Backend) -> None:
        self.system, self.questions, self.memory = system, questions, system.memory
        device, method = system.reader.device, system.method
        self.tables = Tables(system.memory, LATE)
        self.known = Known(self.tables.facts, method.fact_cache // SHORT, method.fact_window, device)
        self.letters: LetterTables | None = None
        if system.letters is not None:
            sizes = self.tables.entities, self.tables.relations
            self.letters = LetterTables(system.memory, *sizes, questions)
        self._tokens = [Spelled(questions, WIDTHS[-1], device) for _ in range(2)]  # of the encoder, of the LM
        asked = Asked(*torch.zeros(2, questions, system.encoder.dimension, device=device))
        self._encodings = [Encoding(system, self._tokens[0], width, asked, backend) for width in WIDTHS]
        self._searching = Searching(self.tables, asked, backend)
        parts = self._searching, self.tables, self.letters, self.known, front
        self._choosing = Choosing(system, *parts, backend)
        self._nothing = torch.zeros(questions, dtype=torch.bool, device=device)
        words = system, self._tokens[1]
        self._wordings = [Wording(*words, width, self._nothing, backend) for width in WIDTHS]
        away = device.type == "cuda"
        on_host = (torch.zeros_like(t, device="cpu") for t in (self._choosing.told, self._nothing))
        self._told, self._silent = (part.pin_memory() if away else part for part in on_host)
        self._aside: Any = None
        if away:
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._chosen: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._end: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def follow(self) -> bool:
        """Take in what changed in the memory; return whether all of it has a place."""
        same = self.system.memory is self.memory and self.tables.follow()
        return same and (self.letters is None or self.letters.follow())

    def begin(self, questions: Sequence[str]) -> bool:
        """Set out to find facts for so many questions; return whether they fit, else nothing is begun."""
        if len(questions) != self.questions:
            return False
        ids = self.system.encoder.tokens(questions)
        width = max(map(len, ids))
        if width > WIDTHS[-1]:
            return False
        if self._aside is not None:
            self._aside.wait_stream(torch.cuda.current_stream())
        with self._beside():
            self._tokens[0].take(ids)
            next(encoding for encoding in self._encodings if encoding.width >= width).run()
            self._searching.run()
        return True

    def choose(self, questions: Sequence[str]) -> bool:
        """Choose what is read; return whether the letters of the questions fit, else nothing is chosen."""
        with self._beside():
            if self.letters is not None and not self.letters.ask(questions):
                return False
            self._choosing.run()
            if self._aside is not None:
                self._chosen.record()
            self._told.copy_(self._choosing.told, non_blocking=True)
        return True

    def await_choice(self) -> None:
        """Let what is launched from here on wait until `choose` has filled `front`; the host goes on."""
        if self._aside is not None:
            torch.cuda.current_stream().wait_event(self._chosen)

    def word(self, questions: Sequence[str]) -> bool:
        """Judge whether anything is asked; return whether the questions fit, else nothing is judged."""
        if not self.system.asking.fitted:
            self._silent.zero_()
        else:
            ids = self.system.reader.encode(questions)
            width = max(map(len, ids))
            if width > WIDTHS[-1]:
                return False
            with self._beside():
                self._tokens[1].take(ids)
                next(wording for wording in self._wordings if wording.width >= width).run()
                self._silent.copy_(self._nothing, non_blocking=True)
        if self._aside is not None:
            self._end.record(self._aside)
        return True

    def finish(self) -> Choices | None:
        """Return what was found; None where there were more facts to look at than places for them."""
        if self._aside is not None:
            self._end.synchronize()
        n, k = self._choosing.n, self._choosing.k
        facts, full, read, figures = torch.split(self._told, [n, 1, k, 2 * k + 2], dim=1)
        if full.any():
            return None
        figures = figures.view(torch.float32).clone()
        scores, null, doubt, log_shares = torch.split(figures, [k, 1, 1, k], dim=1)
        none, facts = torch.zeros_like(scores), facts.long()
        found = Candidates(facts, scores, none, none, torch.full_like(facts, -1))
        return Choices(found, null, doubt[:, 0].masked_fill(self._silent, 1.0), read.long(), log_shares)

    def warm(self) -> None:
        """Compile and record everything."""
        for width in WIDTHS:
            asked = ["a " * (width // 2)] * self.questions
            if self.begin(asked) and self.choose(asked) and self.word(asked):
                self.finish()

    def _beside(self) -> Any:
        return nullcontext() if self._aside is None else torch.cuda.stream(self._aside)
