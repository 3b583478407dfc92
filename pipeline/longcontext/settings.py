"""The values of long contexts: the section `longcontext` and what is nested in it."""

from dataclasses import dataclass

from pipeline.longcontext.corpora import check_sets
from pipeline.longcontext.fillers import check_kinds

PRECISIONS = ("int8", "int4", "float16", "bfloat16", "float32")
SUMMARY_PRECISIONS = ("int8", "float16")
RELEVANCE = ("passage", "answer")
ATTENTION_TERMS = ("frobenius", "entropy")
SPILLS = ("none", "host", "disk")


@dataclass(frozen=True, kw_only=True)
class Dsram:
    """Sinks, a local window and retrieved blocks; older tokens as latents in a ring."""

    first_layer: int
    """ℓ_r: lowest layer that sees retrieved blocks; those below keep and see sinks and window only."""
    block: int
    """Tokens of a block, what is retrieved as a whole."""
    sinks: int
    """Tokens of the text's beginning that every query sees exactly: whole blocks."""
    window: int
    """Exact tokens before a chunk that it sees at least; up to a block more."""
    room: int
    """Tokens of question and answer by which the window may grow before its oldest blocks leave it."""
    k_base: float
    """Blocks retrieved for a text of up to `k_from` tokens."""
    k_from: int
    """Tokens of a text to which `k_base` belongs."""
    k_log: float
    """Blocks more for each doubling of that length."""
    k_most: int
    """Blocks retrieved at most, whatever the length; room for them is kept."""
    stop: bool
    """Whether only blocks that score above 0, the stop action's score, are retrieved."""
    reading_k: int
    """Blocks retrieved for a chunk of text, by the state that ended the chunk before; 0 reads without."""
    stride: int
    """Tokens of an answer after which blocks are retrieved anew; 0 keeps them for the whole answer."""
    ring: int
    """M: tokens whose latents stay on the device, in each layer."""
    rank_keys: int
    """r of the keys' latents, all KV heads of a layer side by side; 0 keeps the keys themselves."""
    rank_values: int
    """r of the values' latents; 0 keeps the values themselves."""
    precision: str
    """What latents are kept in: int8 or int4 (a scale a token), float16, bfloat16 or float32."""
    summary_precision: str
    """What block summaries are kept in: int8 (a scale a block) or float16."""
    spill: str
    """Where latents go that the ring overwrites: host, disk (beyond `host_bytes`), none (forgotten)."""
    host_bytes: int
    """Host memory for latents where `spill` is disk; what comes after goes to files."""
    folder: str
    """Where those files are put; empty for the system's temporary folder."""

    def __post_init__(self) -> None:
        if self.block < 1 or self.sinks % self.block or self.window < 1 or self.room < 0:
            raise ValueError(
                f"sinks must be whole blocks, window at least 1 and room at least 0, not {self.sinks} and "
                f"{self.window} and {self.room} with blocks of {self.block}"
            )
        if self.ring < self.block or self.ring % self.block:
            raise ValueError(f"ring must be whole blocks of {self.block} tokens, not {self.ring}")
        if self.k_base < 0 or self.k_log < 0 or self.k_from < 1 or not 0 <= self.reading_k <= self.k_most:
            raise ValueError(
                "k_base, k_log and reading_k must not be negative, k_from be positive, k_most the most"
            )
        for name, offered in (
            ("precision", PRECISIONS),
            ("summary_precision", SUMMARY_PRECISIONS),
            ("spill", SPILLS),
        ):
            if getattr(self, name) not in offered:
                raise ValueError(f"{name} must be one of {', '.join(offered)}, not {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What the retriever is taught on: texts with many needles and passages, questions about each."""

    texts: dict[str, int]
    """Texts of each fold: train, valid, test."""
    tokens: int
    """Of a text: whole blocks."""
    share: float
    """Of a text that needles and passages take, at most."""
    passages: float
    """Of what is asked for: passages of `sets`; the rest are needles."""
    sets: list[str]
    """nq, hotpotqa, both or none; files below the data root."""
    fillers: list[str]
    """What stands between them, by turns: classic, manual, real."""
    digits: int
    """Of a needle's number."""
    answer_tokens: int
    """Tokens of an answer; questions with longer ones aren't asked."""
    chunk: int
    """Tokens of a text that are read at once."""
    asked: int
    """Tokens that count as the question, as in the section `longtasks`."""
    at_once: int
    """Texts that are read at once."""
    questions_at_once: int
    """Questions that are answered at once."""

    def __post_init__(self) -> None:
        if set(self.texts) != {"train", "valid", "test"} or min(self.texts.values()) < 1:
            raise ValueError(
                f"longcontext.training.teaching.texts must number train, valid and test, not {self.texts}"
            )
        check_kinds(self.fillers, "longcontext.training.teaching.fillers")
        check_sets(self.sets, "longcontext.training.teaching.sets")
        if not self.fillers:
            raise ValueError("longcontext.training.teaching.fillers must not be empty")


@dataclass(frozen=True, kw_only=True)
class Towers:
    """Size of the retriever."""

    kept: int
    """P: directions of a state that are kept."""
    parts: int
    """Stretches of a block, the best of which counts."""
    size: int
    """D: numbers of a stretch."""


@dataclass(frozen=True, kw_only=True)
class Warm:
    """The supervised warm start."""

    steps: int
    """Optimiser steps."""
    learning_rate: float
    """Of AdamW, falling to 0 by a cosine."""
    weight_decay: float
    """Of AdamW."""
    questions: int
    """Questions of a step."""
    blocks: int
    """Blocks of a step: all relevant ones, and others of all texts."""
    dropout: float
    """Share of whitened numbers that is zeroed."""
    margin: float
    """Nats by which scores are to stay away from 0."""
    relevance: str
    """passage: every block of a needle or passage is relevant; answer: those with the answer's own words."""

    def __post_init__(self) -> None:
        if self.relevance not in RELEVANCE:
            raise ValueError(f"warm.relevance must be one of {', '.join(RELEVANCE)}, not {self.relevance!r}")


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """The hybrid loss L_task + λ₁ · retrieved + λ₂ · attention."""

    steps: int
    """Optimiser steps; 0 leaves the phase out."""
    learning_rate: float
    """Of Adam."""
    questions: int
    """Questions of a step."""
    blocks: int
    """Blocks a question sees through gates: the best."""
    temperature: float
    """τ of the gates, in nats."""
    token_cost: float
    """λ₁, nats a block."""
    attention_cost: float
    """λ₂."""
    attention_term: str
    """frobenius or entropy; see `losses.attention_term`."""

    def __post_init__(self) -> None:
        if self.attention_term not in ATTENTION_TERMS:
            raise ValueError(
                f"hybrid.attention_term must be one of {', '.join(ATTENTION_TERMS)}, "
                f"not {self.attention_term!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Ppo:
    """Proximal policy optimisation."""

    rounds: int
    """Times that answers are drawn with the present policy; 0 leaves the phase out."""
    questions: int
    """Questions of a round."""
    samples: int
    """Draws a question."""
    epochs: int
    """Passes over a round."""
    batch: int
    """Draws of an optimiser step."""
    learning_rate: float
    """Of Adam."""
    clip: float
    """ε."""
    entropy: float
    """Weight of the entropy."""
    value_weight: float
    """Weight of the critic's loss."""
    hidden: int
    """Size of the critic's middle layer."""
    temperature: float
    """Scores are divided by it before blocks are drawn."""
    alpha: float
    """α, of a certain answer."""
    beta: float
    """β, of a block."""
    floor: float
    """f: nats a token that halve α."""
    others: float
    """Weight of what keeps blocks of other texts below the stop action."""
    other_blocks: int
    """Blocks of all texts that this term looks at in a step."""
    margin: float
    """Nats that it keeps them below."""

    def __post_init__(self) -> None:
        if self.floor <= 0 or self.temperature <= 0 or self.clip <= 0:
            raise ValueError("ppo.floor, ppo.temperature and ppo.clip must be positive")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the retriever is trained."""

    teaching: Teaching
    """On what."""
    towers: Towers
    """What is trained."""
    warm: Warm
    """First."""
    hybrid: Hybrid
    """Then."""
    ppo: Ppo
    """Last."""
    limit: int
    """Blocks retrieved at most while learning and measuring."""
    counts: list[int]
    """Fixed numbers of blocks that the warm start may retrieve instead of those above a threshold."""
    thresholds: list[float]
    """Thresholds that it may retrieve by."""
    bootstrap_samples: int
    """Resamples behind the intervals of what is measured."""

    def __post_init__(self) -> None:
        if self.limit < 1 or max(self.counts, default=1) > self.limit:
            raise ValueError(f"training.counts must not pass training.limit, {self.limit}")


@dataclass(frozen=True, kw_only=True)
class LongContext:
    """The section."""

    dsram: Dsram
    """What DSRAM keeps, and how much it fetches."""
    training: Training
    """How its retriever learns."""
