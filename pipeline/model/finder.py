"""From questions to their best facts in fixed shapes: on a GPU one replay, of which the host awaits the end.

It computes what `OurSystem.select` does up to the choice of the facts that are read: the question's vector,
the search over all facts, their scores with what the letters say, the null fact's and whether anything is
asked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.facts import Candidates
from pipeline.memory.tables import Tables, fits
from pipeline.model.asking import told
from pipeline.model.compiling import Backend, Recorded, compiled
from pipeline.model.heads import RetrievalHeads
from pipeline.model.inbox import Inbox
from pipeline.model.lettertables import LetterTables
from pipeline.model.ours import OurSystem
from pipeline.model.parts import with_layers
from pipeline.model.selection import doubted

WIDTHS = 32, 64
"""Tokens of a question, for either model; the least of these that is enough counts."""
LATE = 1024
"""Facts, and as many entities, that may come after the tables were made."""

Found = tuple[Candidates, Float[Tensor, "B 1"], Float[Tensor, " B"]]
"""Candidates by falling score, the null fact's score and the doubts."""
CERTAIN = int(np.float32(1.0).view(np.int32))
"""The bits of the number one."""


class Finder:
    """Finds the facts that a fixed number of questions ask for.

    Args:
        system: a trained system that is `suited`.
        questions: B of every batch.
        backend: what torch compiles it with, for each of `WIDTHS`; "" computes it as it is written.
    """

    def __init__(self, system: OurSystem, questions: int, backend: Backend) -> None:
        self.system, self.questions, self.memory = system, questions, system.memory
        self.tables = Tables(system.memory, LATE)
        self.letters: LetterTables | None = None
        if system.letters is not None:
            sizes = self.tables.entities, self.tables.relations
            self.letters = LetterTables(system.memory, *sizes, questions)
        self.wording = system.asking.fitted
        device, reader = system.reader.device, system.reader
        self.begun = with_layers(reader.lm, 0, 1)
        self.begun.set_attn_implementation("sdpa")
        self.given = Inbox((2, questions, WIDTHS[-1] + 1), torch.long, device)
        settings = system.memory.settings
        self.k = min(settings.k, settings.N)
        shape = (questions, settings.N + self.k + 3)
        self.found = torch.zeros(shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._searches = [_Search(self, width, backend) for width in WIDTHS]
        self._aside: Any = None
        if device.type == "cuda":
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._end: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @staticmethod
    def suited(system: OurSystem) -> bool:
        """Return whether a system finds facts as this does: from the encoder's vector, over one hop."""
        one_hop = system.heads.second is None or not system.memory.settings.beam
        plain = type(system.heads) is RetrievalHeads and not float(system.correction.beta)
        return one_hop and plain and fits(system.memory)

    def follow(self) -> bool:
        """Take in what changed in the memory; return whether all of it has a place."""
        same = self.system.memory is self.memory and self.tables.follow()
        return same and (self.letters is None or self.letters.follow())

    def begin(self, questions: Sequence[str]) -> bool:
        """Set out to find facts for so many questions; return whether they fit, else nothing is begun.

        `follow` has taken in what changed before.
        """
        if len(questions) != self.questions:
            return False
        ids = self.system.encoder.tokens(questions), self.system.reader.plain(questions)
        width = max(len(row) for part in ids for row in part)
        if width > WIDTHS[-1]:
            return False
        if self.letters is not None and not self.letters.ask(questions):
            return False
        given = self.given.opened()
        given.fill(0)
        for part, rows in enumerate(ids):
            for row, tokens in enumerate(rows):
                given[part, row, : len(tokens)] = tokens
                given[part, row, -1] = len(tokens)
        search = next(search for search in self._searches if search.width >= width)
        if self._aside is None:
            search.run()
            return True
        self.given.send()
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            search.run()
            self._end.record()
        return True

    def finish(self) -> Found | None:
        """Return what was found, on the host.

        Of the scores, only the k best. None where there were more facts to look at than places for them.
        """
        if self._aside is not None:
            self._end.synchronize()
        count = self.memory.settings.N
        facts, full = self.found[:, :count].long(), self.found[:, count]
        figures = self.found[:, count + 1 :].view(torch.float32).clone()
        if full.any():
            return None
        scores, null, doubt = torch.split(figures, [self.k, 1, 1], dim=1)
        none = torch.zeros_like(scores)
        return Candidates(facts, scores, none, none, torch.full_like(facts, -1)), null, doubt[:, 0]

    def warm(self) -> None:
        """Compile and record everything."""
        for width in WIDTHS:
            word = "a " * (width // 2)
            self.begin([word] * self.questions)
            self.finish()


class _Search:
    """The search with questions of as many tokens."""

    def __init__(self, finder: Finder, width: int, backend: Backend) -> None:
        self.width, self._finder = width, finder
        name = f"of_{finder.questions}_by_{width}"
        self._search = compiled(self._searched, backend, f"search_{name}")
        self._wording = compiled(self._asks_nothing, backend, f"wording_{name}")
        self.run = Recorded(self._compute, finder.memory.device, record=bool(backend))

    def _compute(self) -> None:
        finder = self._finder
        found = self._search()
        if finder.wording:
            found[:, -1].masked_fill_(self._wording(), CERTAIN)
        finder.found.copy_(found, non_blocking=True)

    def _tokens(self, part: int, width: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        ids, lengths = torch.split(self._finder.given.tensor[part], [WIDTHS[-1], 1], dim=1)
        return ids[:, :width], torch.arange(width, device=ids.device) < lengths

    def _searched(self) -> Int[Tensor, "B numbers"]:
        """Return the facts by falling score, whether there were too many, and figures as their bits.

        These are the k best scores, the null fact's and the doubt, which is the last.
        """
        finder, system = self._finder, self._finder.system
        ids, mask = self._tokens(0, min(self.width, system.encoder.max_tokens))
        query = system.heads(system.encoder.pooled(ids, mask.long()))
        fixed = finder.tables.search(query._replace(second=None, stop=None))
        found, letters = fixed.candidates, None
        if finder.letters is not None and system.letters is not None:
            letters = finder.letters.overlaps(fixed.heads, fixed.relations, fixed.counts)
            letters = letters.masked_fill((found.facts < 0)[..., None], 0.0)
            found = found._replace(scores=found.scores + system.letters(found, letters))
        found, null = system.ranked(found, letters)
        doubt = doubted(found.scores, null)
        figures = torch.cat([found.scores[:, : finder.k], null, doubt[:, None]], dim=1)
        whole = torch.cat([found.facts, fixed.full[:, None].long()], dim=1)
        return torch.cat([whole.int(), figures.float().contiguous().view(torch.int32)], dim=1)

    def _asks_nothing(self) -> Bool[Tensor, " B"]:
        """Return which questions ask nothing; tokens see none behind them, so padding there does no harm."""
        finder, asking = self._finder, self._finder.system.asking
        ids, mask = self._tokens(1, self.width)
        embedded = finder.begun.get_input_embeddings()(ids)
        states = finder.begun.base_model(input_ids=ids, use_cache=False).last_hidden_state
        described = torch.cat([told(part.float(), mask) for part in (embedded, states)], dim=-1)
        nothing: Tensor = asking(described) > asking.limit
        return nothing
