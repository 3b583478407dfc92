"""Our method: facts found by entity and relation, read as tokens that are shifted by their probability."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.asking import Asking
from pipeline.model.attention import FactTokens, inject, reading
from pipeline.model.factreader import FactReader
from pipeline.model.heads import NullFact, RetrievalHeads, StateCorrection
from pipeline.model.hops import gold_paths, with_gold_paths
from pipeline.model.isolation import read_apart
from pipeline.model.letters import OVERLAPS, LetterCorrection, Letters, nearest_letters, overlaps
from pipeline.model.losses import auxiliary_loss
from pipeline.model.lowrank import LowRank
from pipeline.model.number import Number
from pipeline.model.reader import Reader
from pipeline.model.selection import Shares, doubted, reply, shares, spread, training_selection
from pipeline.model.settings import Ours
from pipeline.model.sharding import along, rounds
from pipeline.model.sharing import weighed
from pipeline.model.states import StateHeads
from pipeline.model.system import Example, Reply, System, share_right
from pipeline.shapes import CandidateFacts, CandidateScores


class OurSystem(System):
    """Our method, as an adapter.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts.

    Raises:
        UserError: the language model lacks a layer or a projection that `method` names.
    """

    fitted_before: ClassVar[tuple[str, ...]] = ("heads.", "correction.", "letters.", "null.")

    def __init__(self, method: Ours, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        if method.state_layer > reader.layers:
            raise UserError(
                f"conf/method: method.state_layer is {method.state_layer}, "
                f"but the model has {reader.layers} layers"
            )
        self.method = method
        scales = method.entity_scale, method.relation_scale
        sizes = (encoder.dimension, method.head_width, *scales, method.hops)
        self.heads: RetrievalHeads = (
            StateHeads(reader.hidden, method.state_pools, *sizes)
            if method.question == "states"
            else RetrievalHeads(*sizes)
        )
        self.letters = LetterCorrection(method.letters_width) if method.letters else None
        self.null = NullFact(method.null_width, OVERLAPS + 3 if method.letters else 0)
        self.asking = Asking(reader.hidden)
        self.correction = StateCorrection(reader.hidden, encoder.dimension)
        self._beta, self._threshold, self._warmth = Number(), Number(), Number()
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.lowrank = LowRank(
            reader.lm, method.projections, method.first_layer, method.rank, method.rank_alpha
        )
        self.facts = FactReader(reader, method.first_layer, method.fact_window, method.fact_cache)
        self.to(reader.device)

    @property
    def learns_refusal(self) -> bool:
        """It does: they teach the null fact."""
        return True

    @property
    def hops(self) -> int:
        """As many as its configuration says."""
        return self.method.hops

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the language model read facts inside this block."""
        with inject(self.reader.lm):
            yield

    def forget(self) -> None:
        """Drop the cached facts: the batch that a fact was prefilled in moves its last digits."""
        self.facts.clear()

    def query(self, questions: Sequence[str]) -> Query:
        """Return what the questions ask the memory for, over one hop where the memory goes no further."""
        query = self._asked(questions)
        return query if self.memory.settings.beam else query._replace(second=None, stop=None)

    def _asked(self, questions: Sequence[str]) -> Query:
        if isinstance(self.heads, StateHeads):
            states, mask = self.reader.token_states(questions, self.method.state_layer)
            return self.heads.ask(states.float(), mask)
        query: Query = self.heads(self.encoder.encode(questions))
        return query

    def found(self, questions: Sequence[str]) -> Candidates:
        """Return the candidates of the coarse search with their fine scores."""
        return self._found(questions)[0]

    def _found(self, questions: Sequence[str]) -> tuple[Candidates, Letters | None]:
        query = self.query(questions)
        found = self.memory.search(query)
        return self._scored(questions, query, found.facts, found.via)

    def scored(
        self, questions: Sequence[str], query: Query, facts: CandidateFacts, via: CandidateFacts
    ) -> Candidates:
        """Return the fine scores of given facts: the coarse ones, corrected by letters and early states."""
        return self._scored(questions, query, facts, via)[0]

    def _scored(
        self, questions: Sequence[str], query: Query, facts: CandidateFacts, via: CandidateFacts
    ) -> tuple[Candidates, Letters | None]:
        """Return also what the letters say, which the null fact judges by."""
        found = self.memory.score(query, facts, via)
        scores, letters = found.scores, None
        if self.letters:
            letters = overlaps(self.memory, questions, facts, via)
            scores = scores + self.letters(found, letters)
        if self._beta(self.correction.beta):
            states = self.reader.early_states(questions, self.method.state_layer)
            correction = self.correction(states, self.memory.keys(found.asked))
            scores = scores + self.correction.beta * correction
        return found._replace(scores=scores), letters

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n candidates with the best fine scores, best first; -1 where there are fewer."""
        found = self.found(questions)
        order = found.scores.argsort(dim=-1, descending=True, stable=True)
        return found.facts.gather(1, order)[:, :n]

    @torch.no_grad()
    def doubt(self, questions: Sequence[str]) -> list[float]:
        """Return the probability that no fact answers, of each question."""
        found, letters = self._found(questions)
        return self._doubt(questions, found.scores, self._null(found, letters)).tolist()

    def _null(self, found: Candidates, letters: Letters | None) -> Tensor:
        """Return the score of "no fact answers" beside those of `found`."""
        null: Tensor = self.null(found.scores, self._evidence(found, letters))
        return null

    @torch.no_grad()
    def evidence(self, questions: Sequence[str]) -> tuple[Candidates, Float[Tensor, "B F"]]:
        """Return the candidates, and what the null fact judges by."""
        found, letters = self._found(questions)
        return found, self._evidence(found, letters)

    @torch.no_grad()
    def _evidence(self, found: Candidates, letters: Letters | None) -> Float[Tensor, "B F"]:
        nearest = None if letters is None else nearest_letters(letters, found.scores)
        return self.null.features(found.scores, found, self.heads.entity_log_scale.exp(), nearest)

    def _doubt(self, questions: Sequence[str], scores: Tensor, null: Tensor) -> Tensor:
        """Return the null fact's share among all candidates; 1 where nothing is asked."""
        return doubted(scores, null).masked_fill(self.asking.asks_nothing(self.reader, questions), 1.0)

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L = L_LM + α·L_Aux and its parts.

        L_LM is taken over the questions that have an answer, L_Aux over those of which something is told. A
        question with an answer but no gold fact teaches what to find by L_LM alone.
        """
        questions = [example.text for example in batch]
        query = self.query(questions)
        with torch.no_grad():
            facts, via = with_gold_paths(self.memory.search(query), batch)
        found, letters = self._scored(questions, query, facts, via)
        gold = gold_paths(facts, via, batch)
        # A question without an answer teaches when to refuse, not what to find.
        rows = [row for row, example in enumerate(batch) if example.answers]
        answerable = torch.tensor([[bool(e.answers)] for e in batch], device=gold.device)
        held = torch.where(answerable, found.scores, found.scores.detach())
        found = found._replace(scores=held)
        null = self._null(found, letters)
        told = torch.tensor([example.told for example in batch], device=gold.device)
        none = 0.0 * self.temperature
        aux = auxiliary_loss(found.scores, gold, null, told) if told.any() else weighed(none, 0)
        selected = training_selection(found.scores, gold, self.memory.settings.k)
        chosen, log_shares = self._shared(facts.gather(1, selected), found.scores.gather(1, selected), null)
        read = [[fact for fact in chosen[row].tolist() if fact >= 0] for row in rows]
        targets = [self.target(batch[row], facts) for row, facts in zip(rows, read, strict=True)]
        shown = [list(map(self.memory.text, row)) for row in read]
        tokens = self.facts.facts(shown, self._shifts(log_shares.facts[rows]))
        with reading(tokens if rows else None), self.lowrank.attached(self.reader.lm):
            others = rounds(self.reader.lm, len(rows))
            if rows:
                lm_loss = self.reader.loss(self.reader.tokens([questions[row] for row in rows], targets))
            else:
                idle = along(self.reader.lm, self.reader.tokens(["?"]).ids) if others else none.detach()
                lm_loss = weighed(idle, 0)
        right = gold.gather(1, found.scores.argmax(dim=-1, keepdim=True))[gold.any(dim=-1)]
        return {
            "loss": lm_loss + self.method.alpha * aux,
            "lm_loss": lm_loss.detach(),
            "aux_loss": aux.detach(),
            "retrieval_accuracy": share_right(right),
            "temperature": self.temperature.detach() * self.heads.temperature,
            "null_share": weighed(log_shares.null.exp().mean().detach(), len(batch)),
        }

    def _shared(self, facts: CandidateFacts, scores: CandidateScores, null: Tensor) -> tuple[Tensor, Shares]:
        """Return the selected facts by falling share, and their shares."""
        rows = facts.tolist()
        heads, relations, _ = self.memory.columns(facts.clamp(min=0)).tolist()
        pairs = [zip(*row, strict=True) for row in zip(rows, heads, relations, strict=True)]
        slots = [[(h, r) if fact >= 0 else None for fact, h, r in row] for row in pairs]
        told = iter(self.memory.told([fact for row in rows for fact in row if fact >= 0]))
        texts = [[next(told) if fact >= 0 else "" for fact in row] for row in rows]
        penalty = torch.tensor(spread(slots, texts, self.method.slot_gap), device=scores.device)
        found = shares(scores, null, self._warmth_of(scores), penalty)
        order = found.facts.argsort(dim=-1, descending=True, stable=True)
        return facts.gather(1, order), found._replace(facts=found.facts.gather(1, order))

    def _warmth_of(self, scores: Tensor) -> Tensor:
        """Return the temperature where `scores` are."""
        if scores.device == self.temperature.device:
            return self.temperature
        return scores.new_tensor(self._warmth(self.temperature))

    @torch.no_grad()
    def select(self, questions: Sequence[str]) -> tuple[Reply, Tensor]:
        """Return a reply without texts, and the log-probabilities of the k best facts."""
        found, null = self.ranked(*self._found(questions))
        return self.chosen(found, null, self._doubt(questions, found.scores, null))

    @torch.no_grad()
    def ranked(self, found: Candidates, letters: Letters | None) -> tuple[Candidates, Float[Tensor, "B 1"]]:
        """Return candidates by falling score, and the score of the null fact."""
        scores, order = found.scores.sort(dim=-1, descending=True, stable=True)
        ranked = Candidates(found.facts.gather(1, order), scores, *(p.gather(1, order) for p in found[2:]))
        if letters is not None:
            letters = letters.gather(1, order[..., None].expand_as(letters))
        return ranked, self._null(ranked, letters)

    @torch.no_grad()
    def chosen(
        self, ranked: Candidates, null: Float[Tensor, "B 1"], doubt: Float[Tensor, " B"]
    ) -> tuple[Reply, Tensor]:
        """Return a reply without texts, and the log-probabilities of the k best facts.

        Args:
            ranked: candidates by falling score.
            null: score of the null fact.
            doubt: probability that no fact answers.
        """
        k = min(self.memory.settings.k, ranked.scores.shape[1])
        facts, (log_shares, _) = self._shared(ranked.facts[:, :k], ranked.scores[:, :k], null)
        limit = self._threshold(self.null.threshold)
        return reply(ranked, facts, log_shares, doubt, limit, self.method.mass), log_shares

    def fact_tokens(self, rows: Sequence[int], chosen: Reply, log_shares: Tensor) -> FactTokens:
        """Return the tokens of the facts that `select` chose for the questions `rows`."""
        width = max(len(chosen.facts[row]) for row in rows)
        shown = [[self.memory.text(fact) for fact in chosen.facts[row]] for row in rows]
        return self.facts.facts(shown, self._shifts(log_shares[rows, :width]))

    def _shifts(self, log_shares: Tensor) -> Tensor:
        """Return what is added to the logits of each fact's tokens."""
        return log_shares if self.method.shift else torch.zeros_like(log_shares)

    @contextmanager
    def reads(self, rows: Sequence[int], chosen: Reply, log_shares: Tensor) -> Iterator[None]:
        """Let the questions `rows` be read with the facts that were chosen for them."""
        with reading(self.fact_tokens(rows, chosen, log_shares)), self.lowrank.attached(self.reader.lm):
            yield

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, the facts that were read with their probabilities, and the null fact's."""
        chosen, log_shares = self.select(questions)
        rows = [row for row, no in enumerate(chosen.refused) if not no and chosen.facts[row]]
        texts = [""] * len(questions)
        asked, answers = [questions[row] for row in rows], list[str]()
        if rows and self.method.isolate:
            shown = [[self.memory.text(fact) for fact in chosen.facts[row]] for row in rows]
            weights = [chosen.weights[row] for row in rows]
            parts = self.reader, self.facts, self.lowrank
            answers = read_apart(*parts, asked, shown, weights, self.answer_tokens)
        elif rows:
            with self.reads(rows, chosen, log_shares):
                answers = self.reader.generate(self.reader.tokens(asked), self.answer_tokens)
        for row, answer in zip(rows, answers, strict=True):
            texts[row] = answer
        return replace(chosen, texts=texts)
