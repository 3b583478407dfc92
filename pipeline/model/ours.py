"""Our method: facts found by entity and relation, read as tokens that are shifted by their probability."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.attention import inject, reading
from pipeline.model.factreader import FactReader
from pipeline.model.heads import NullFact, RetrievalHeads, StateCorrection
from pipeline.model.hops import gold_paths, with_gold_paths
from pipeline.model.losses import auxiliary_loss
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader
from pipeline.model.selection import Shares, enough, shares, spread, training_selection
from pipeline.model.states import StateHeads
from pipeline.model.system import Example, Reply, System
from pipeline.shapes import CandidateFacts, CandidateScores

QUESTIONS = ("encoder", "states")


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The score-shifted token reader with its retrieval heads and null fact."""

    first_layer: int
    """ℓ_r: lowest layer in which the question sees the facts."""
    projections: list[str]
    """Projections of those layers that get a low-rank change."""
    rank: int
    """r of the low-rank change."""
    rank_alpha: float
    """α of the low-rank change, which is scaled by α/r."""
    hops: int
    """Facts that a question may lead over: 1, or 2 (the tail of the first heads the second)."""
    question: str
    """What tells what is asked for: `encoder`, or the language model's own early `states`."""
    state_pools: int
    """How often a question's states are pooled, for the entity and for the relation."""
    head_width: int
    """Inner width of the retrieval heads."""
    entity_scale: float
    """Nats a unit of cosine of the entity, before training."""
    relation_scale: float
    """Nats a unit of cosine of the relation, before training."""
    null_width: int
    """Inner width of the null fact's perceptron."""
    state_layer: int
    """Layers after which the language model's own states correct the scores, or ask."""
    fact_window: int
    """Tokens of the longest fact."""
    fact_cache: int
    """Tokens of facts whose keys and values are kept."""
    mass: float
    """Adaptive k: the facts with most share are read until their shares sum up to this; 1 reads all k."""
    slot_gap: float
    """Nats by which each value of a slot is read below the one before it, so that no two are blended."""
    refuse_answerable: float
    """Share of answerable validation questions, of either kind, that may be refused: sets the threshold."""
    answer_tokens: int
    """Longest answer."""
    alpha: float
    """α of L_Aux."""

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise ValueError(f"method.mass must be in (0, 1], not {self.mass}")
        if self.question not in QUESTIONS:
            raise ValueError(f"method.question must be one of {', '.join(QUESTIONS)}, not {self.question!r}")
        if self.hops not in (1, 2):
            raise ValueError(f"method.hops must be 1 or 2, not {self.hops}")
        if self.state_pools < 1:
            raise ValueError(f"method.state_pools must be at least 1, not {self.state_pools}")
        if self.slot_gap < 0:
            raise ValueError(f"method.slot_gap must be at least 0, not {self.slot_gap}")
        if not 0 <= self.refuse_answerable < 1:
            raise ValueError(f"method.refuse_answerable must be in [0, 1), not {self.refuse_answerable}")
        if self.rank < 1 or self.answer_tokens < 1 or self.fact_window < 1 or self.state_layer < 1:
            raise ValueError("method.rank, answer_tokens, fact_window and state_layer must be at least 1")
        if self.head_width < 1 or self.fact_cache < 0 or min(self.entity_scale, self.relation_scale) <= 0:
            raise ValueError(
                "method.head_width must be at least 1, fact_cache at least 0, "
                "entity_scale and relation_scale above 0"
            )


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

    fitted_before: ClassVar[tuple[str, ...]] = ("heads.", "correction.", "null.")

    def __init__(self, method: Ours, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        if method.state_layer > reader.layers:
            raise UserError(
                f"conf/method: method.state_layer is {method.state_layer}, "
                f"but the model has {reader.layers} layers"
            )
        self.method = method
        sizes = (
            encoder.dimension,
            method.head_width,
            method.entity_scale,
            method.relation_scale,
            method.hops,
        )
        self.heads: RetrievalHeads = (
            StateHeads(reader.hidden, method.state_pools, *sizes)
            if method.question == "states"
            else RetrievalHeads(*sizes)
        )
        self.null = NullFact(method.null_width)
        self.correction = StateCorrection(reader.hidden, encoder.dimension)
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
        query = self.query(questions)
        found = self.memory.search(query)
        return self.scored(questions, query, found.facts, found.via)

    def scored(
        self, questions: Sequence[str], query: Query, facts: CandidateFacts, via: CandidateFacts
    ) -> Candidates:
        """Return the fine scores of given facts: the coarse score and the correction by early states."""
        found = self.memory.score(query, facts, via)
        if not self.correction.beta:
            return found
        states = self.reader.early_states(questions, self.method.state_layer)
        asked = torch.where(via < 0, facts, via)
        correction = self.correction.beta * self.correction(states, self.memory.keys(asked))
        return found._replace(scores=found.scores + correction)

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n candidates with the best fine scores, best first; -1 where there are fewer."""
        found = self.found(questions)
        order = found.scores.argsort(dim=-1, descending=True, stable=True)
        return found.facts.gather(1, order)[:, :n]

    @torch.no_grad()
    def doubt(self, questions: Sequence[str]) -> list[float]:
        """Return the probability that no fact answers, of each question."""
        found = self.found(questions)
        return self._doubt(found.scores, self._null(found)).tolist()

    def _null(self, found: Candidates) -> Tensor:
        """Return the null fact's score beside those of `found`."""
        return self.null(found.scores, found, self.heads.entity_log_scale.exp())  # type: ignore[no-any-return]

    def _doubt(self, scores: Tensor, null: Tensor) -> Tensor:
        """Return the null fact's share among all candidates."""
        return torch.log_softmax(torch.cat([scores, null], dim=-1), dim=-1)[:, -1].exp()

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L = L_LM + α·L_Aux and its parts; L_LM is taken over the answerable questions."""
        questions = [example.text for example in batch]
        query = self.query(questions)
        with torch.no_grad():
            facts, via = with_gold_paths(self.memory.search(query), batch)
        found = self.scored(questions, query, facts, via)
        gold = gold_paths(facts, via, batch)
        # A question without an answer teaches when to refuse, not what to find.
        held = torch.where(gold.any(dim=-1, keepdim=True), found.scores, found.scores.detach())
        found = found._replace(scores=held)
        null = self._null(found)
        aux = auxiliary_loss(found.scores, gold, null)
        selected = training_selection(found.scores, gold, self.memory.settings.k)
        rows = [row for row, example in enumerate(batch) if example.gold]
        chosen, log_shares = self._shared(facts.gather(1, selected), found.scores.gather(1, selected), null)
        lm_loss = torch.zeros((), device=aux.device)
        if rows:
            read = [[fact for fact in chosen[row].tolist() if fact >= 0] for row in rows]
            targets = [self.target(batch[row], facts) for row, facts in zip(rows, read, strict=True)]
            tokens = self.facts.facts(
                [list(map(self.memory.text, row)) for row in read], log_shares.facts[rows]
            )
            with reading(tokens), self.lowrank.attached(self.reader.lm):
                lm_loss = self.reader.loss(self.reader.tokens([questions[row] for row in rows], targets))
        right = gold.gather(1, found.scores.argmax(dim=-1, keepdim=True))[rows]
        return {
            "loss": lm_loss + self.method.alpha * aux,
            "lm_loss": lm_loss.detach(),
            "aux_loss": aux.detach(),
            "retrieval_accuracy": right.float().mean() if rows else torch.zeros(()),
            "temperature": self.temperature.detach() * self.heads.temperature,
            "null_share": log_shares.null.exp().mean().detach(),
        }

    def _shared(self, facts: CandidateFacts, scores: CandidateScores, null: Tensor) -> tuple[Tensor, Shares]:
        """Return the selected facts by falling share, and their shares."""
        rows = facts.tolist()
        triples = self.memory.triples
        slots = [[tuple(triples[fact, :2].tolist()) if fact >= 0 else None for fact in row] for row in rows]
        texts = [[self.memory.text(fact) if fact >= 0 else "" for fact in row] for row in rows]
        penalty = torch.tensor(spread(slots, texts, self.method.slot_gap), device=scores.device)
        found = shares(scores, null, self.temperature, penalty)
        order = found.facts.argsort(dim=-1, descending=True, stable=True)
        return facts.gather(1, order), found._replace(facts=found.facts.gather(1, order))

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, the facts that were read with their probabilities, and the null fact's."""
        found = self.found(questions)
        scores, order = found.scores.sort(dim=-1, descending=True, stable=True)
        ranked = Candidates(found.facts.gather(1, order), scores, *(p.gather(1, order) for p in found[2:]))
        null = self._null(ranked)
        refusal = self._doubt(scores, null).tolist()
        k = min(self.memory.settings.k, scores.shape[1])
        chosen, (log_shares, _) = self._shared(ranked.facts[:, :k], scores[:, :k], null)
        read, weights, via = [], [], []
        columns = (chosen, log_shares.exp(), ranked.facts, ranked.via)
        for facts, row, found_facts, ways in zip(*(column.tolist() for column in columns), strict=True):
            way = dict(zip(found_facts, ways, strict=True))
            count = enough(row[: sum(fact >= 0 for fact in facts)], self.method.mass)
            read.append(facts[:count])
            weights.append(row[:count])
            via.append([way[fact] for fact in facts[:count]])
        refused = [share > float(self.null.threshold) for share in refusal]
        texts = self._generate(questions, read, log_shares, refused)
        candidates = [[fact for fact in row if fact >= 0] for row in ranked.facts.tolist()]
        return Reply(texts, read, weights, candidates, refusal, refused, via)

    def _generate(
        self, questions: Sequence[str], read: list[list[int]], log_shares: Tensor, refused: list[bool]
    ) -> list[str]:
        rows = [row for row, no in enumerate(refused) if not no and read[row]]
        texts = [""] * len(questions)
        if rows:
            width = max(len(read[row]) for row in rows)
            shown = [[self.memory.text(fact) for fact in read[row]] for row in rows]
            tokens = self.facts.facts(shown, log_shares[rows, :width])
            with reading(tokens), self.lowrank.attached(self.reader.lm):
                prompts = self.reader.tokens([questions[row] for row in rows])
                answers = self.reader.generate(prompts, self.answer_tokens)
            for row, answer in zip(rows, answers, strict=True):
                texts[row] = answer
        return texts
