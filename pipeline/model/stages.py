"""What finding a fact takes on the device, in parts that are compiled and recorded each for itself.

None of them waits for the host, and each begins as soon as it was told what it reads: the question's tokens,
then its letters, then how it is worded.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.facts import Query
from pipeline.memory.tables import Fixed, Tables
from pipeline.model.arena import Front
from pipeline.model.asking import told
from pipeline.model.choice import choose
from pipeline.model.compiling import Backend, Recorded, compiled
from pipeline.model.inbox import Inbox
from pipeline.model.known import Known
from pipeline.model.lettertables import LetterTables
from pipeline.model.ours import OurSystem
from pipeline.model.parts import with_layers
from pipeline.model.selection import doubted


class Asked(NamedTuple):
    """What the heads ask the memory for."""

    key: Float[Tensor, "B P"]
    relation: Float[Tensor, "B P"]


class Spelled:
    """The token ids of a fixed number of questions, with their lengths in a last column.

    Args:
        questions: B.
        width: tokens of the longest question.
        device: where they are read.
    """

    def __init__(self, questions: int, width: int, device: torch.device) -> None:
        self._given, self._width = Inbox((questions, width + 1), torch.long, device), width

    def take(self, rows: list[list[int]]) -> None:
        """Take the tokens of all questions, none of which is too long."""
        given = self._given.opened()
        given.fill(0)
        for row, tokens in enumerate(rows):
            given[row, : len(tokens)] = tokens
            given[row, -1] = len(tokens)
        self._given.send()

    def first(self, width: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return the first `width` tokens of each, and which are no padding."""
        ids, lengths = torch.split(self._given.tensor, [self._width, 1], dim=1)
        return ids[:, :width], torch.arange(width, device=ids.device) < lengths


class Encoding:
    """From tokens to what the memory is asked for.

    Args:
        system: gives the encoder and the heads.
        tokens: of the questions, for the encoder.
        width: those of the longest question.
        asked: takes what comes out.
        backend: see `compiled`.
    """

    def __init__(
        self, system: OurSystem, tokens: Spelled, width: int, asked: Asked, backend: Backend
    ) -> None:
        self.width, self._system, self._tokens, self._asked = width, system, tokens, asked
        self._compiled = compiled(self._forward, backend, f"encoding_of_{len(asked.key)}_by_{width}")
        self.run = Recorded(self._compute, asked.key.device, record=bool(backend))

    def _compute(self) -> None:
        for place, value in zip(self._asked, self._compiled(), strict=True):
            place.copy_(value)

    def _forward(self) -> tuple[Tensor, Tensor]:
        system = self._system
        ids, mask = self._tokens.first(min(self.width, system.encoder.max_tokens))
        query = system.heads(system.encoder.pooled(ids, mask.long()))
        return query.key, query.relation


class Searching:
    """From what is asked for to the best facts.

    Args:
        tables: the facts.
        asked: what is asked for.
        backend: see `compiled`.
    """

    fixed: Fixed

    def __init__(self, tables: Tables, asked: Asked, backend: Backend) -> None:
        self._tables, self._asked = tables, asked
        self._compiled = compiled(self._forward, backend, f"search_of_{len(asked.key)}")
        self.run = Recorded(self._compute, asked.key.device, record=bool(backend))

    def _compute(self) -> None:
        # What was recorded writes to these same tensors ever after.
        self.fixed = self._compiled()

    def _forward(self) -> Fixed:
        return self._tables.search(Query(self._asked.key, self._asked.relation))


class Choosing:
    """From the best facts to those that are read: in `front`, and with all figures in `told`.

    A row of `told` holds the N facts by falling score, whether there were too many, and the choice's k facts;
    then, as their bits, the k best scores, the null fact's, the doubt and the k log-shares.

    Args:
        system: judges.
        searching: has found them.
        tables: the facts.
        letters: those of the questions and of all names, where the system goes by them.
        known: where facts stand.
        front: takes what is read.
        backend: see `compiled`.
    """

    def __init__(
        self,
        system: OurSystem,
        searching: Searching,
        tables: Tables,
        letters: LetterTables | None,
        known: Known,
        front: Front,
        backend: Backend,
    ) -> None:
        self._system, self._searching, self._tables = system, searching, tables
        self._letters, self._known, self._front = letters, known, front
        settings = system.memory.settings
        self.n, self.k = settings.N, min(settings.k, settings.N)
        shape, device = (len(front.places), self.n + 3 * self.k + 3), front.places.device
        self.told: Int[Tensor, "B numbers"] = torch.zeros(shape, dtype=torch.int32, device=device)
        self._compiled = compiled(self._forward, backend, f"choice_of_{shape[0]}")
        self.run = Recorded(self._compute, device, record=bool(backend))

    def _compute(self) -> None:
        told, places, shifts = self._compiled()
        self._front.places.copy_(places)
        self._front.shifts.copy_(shifts)
        self.told.copy_(told)

    def _forward(self) -> tuple[Tensor, Tensor, Tensor]:
        system, (found, heads, relations, counts, full) = self._system, self._searching.fixed
        letters = None
        if self._letters is not None and system.letters is not None:
            letters = self._letters.overlaps(heads, relations, counts)
            letters = letters.masked_fill((found.facts < 0)[..., None], 0.0)
            found = found._replace(scores=found.scores + system.letters(found, letters))
        found, null = system.ranked(found, letters)
        facts, scores = found.facts[:, : self.k], found.scores[:, : self.k]
        slots = self._tables.slots(facts)
        chosen = choose(
            system, self._known, facts, scores, slots, null, self._front.width, self._front.hidden
        )
        figures = torch.cat([scores, null, doubted(found.scores, null)[:, None], chosen.log_shares], dim=1)
        whole = torch.cat([found.facts, full[:, None].long(), chosen.facts], dim=1)
        told = torch.cat([whole.int(), figures.float().contiguous().view(torch.int32)], dim=1)
        return told, chosen.places, chosen.shifts


class Wording:
    """Whether a question asks anything; tokens see none behind them, so padding there does no harm.

    Args:
        system: judges.
        tokens: of the bare questions, for the language model.
        width: those of the longest question.
        nothing: takes which questions ask nothing.
        backend: see `compiled`.
    """

    def __init__(
        self, system: OurSystem, tokens: Spelled, width: int, nothing: Bool[Tensor, " B"], backend: Backend
    ) -> None:
        self.width, self._asking, self._tokens, self._nothing = width, system.asking, tokens, nothing
        self._lm = with_layers(system.reader.lm, 0, 1)
        self._lm.set_attn_implementation("sdpa")
        self._compiled = compiled(self._forward, backend, f"wording_of_{len(nothing)}_by_{width}")
        self.run = Recorded(self._compute, nothing.device, record=bool(backend))

    def _compute(self) -> None:
        self._nothing.copy_(self._compiled())

    def _forward(self) -> Bool[Tensor, " B"]:
        ids, mask = self._tokens.first(self.width)
        embedded = self._lm.get_input_embeddings()(ids)
        states = self._lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        described = torch.cat([told(part.float(), mask) for part in (embedded, states)], dim=-1)
        nothing: Tensor = self._asking(described) > self._asking.limit
        return nothing
