"""The values of our method and of the vector methods: the section `method` of each."""

from dataclasses import dataclass

from pipeline.model.knowledge import POOLINGS

QUESTIONS = ("encoder", "states")
ROWS = ("graph", "synthetic")
SELECTIONS = ("layer", "shared")


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
    letters: bool
    """Whether the letters that a question shares with a fact's names correct its score and judge refusals."""
    letters_width: int
    """Inner width of that correction's perceptron."""
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
    shift: bool
    """Whether a fact's log-probability is added to the attention logits of its tokens; false, for ablation,
    reads all selected facts alike."""
    isolate: bool
    """Whether each fact is read alone, and what most of their probability says is answered: a defence against
    facts that mislead, at k times the cost."""
    slot_gap: float
    """Nats by which each value of a slot is read below the one before it, so that no two are blended."""
    refuse_answerable: float
    """Share of validation questions that may be refused: of those whose first fact answers, for want of a
    fact, and of all answerable ones, as texts that ask nothing. Sets the threshold and the limit."""
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
        if min(self.letters_width, self.null_width) < 1:
            raise ValueError("method.letters_width and null_width must be at least 1")
        if self.head_width < 1 or self.fact_cache < 0 or min(self.entity_scale, self.relation_scale) <= 0:
            raise ValueError(
                "method.head_width must be at least 1, fact_cache at least 0, "
                "entity_scale and relation_scale above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Vector:
    """KBLaM (arXiv 2410.10450) and AtlasKV (arXiv 2510.17934), which part by these values alone."""

    every: int
    """Layers from one that sees facts to the next one that does, beginning with the first (both: 3)."""
    normalised: bool
    """Whether keys are normalised without learned scale (both do)."""
    size_weight: float
    """C of the shift log C - log M while answering; 0 for no shift (KBLaM: 100, AtlasKV: 0)."""
    roots: int
    """k_R of HiKVP while answering; 0 reads all facts (AtlasKV: 128, KBLaM: 0)."""
    inner: int
    """k_I of HiKVP (AtlasKV: 64)."""
    leaves: int
    """k_L of HiKVP (AtlasKV: 16), and facts that a shared selection reads."""
    block: int
    """Facts that are read at a time where all are."""
    grounding: int
    """Which of the layers that see facts tells what is read, and takes L_Aux; 0 is the lowest."""
    selection: str
    """Who selects what is read: each `layer` for itself (both papers); or, `shared`, the grounding layer
    once, for itself and those above: its `leaves` best facts. The layers below it then read none."""
    negatives: int
    """Random facts beside the right ones grow by so many (AtlasKV: 4) …"""
    negatives_every: int
    """… every so many steps (AtlasKV: 100) …"""
    negatives_most: int
    """… up to so many (AtlasKV: 120)."""
    scored: int
    """Further random facts that no layer reads: L_Aux tells the right ones from them too."""
    answer_tokens: int
    """Longest answer."""
    alpha: float
    """α of L_Aux; 0 trains as the papers do."""
    pooling: str
    """How heads and tokens of a layer are made one score of a fact: `softmax` (AtlasKV) or `mean`."""
    logit_scale: float
    """What L_Aux multiplies scores by at first, learned from there on; 0 for none, as with `softmax`."""
    rows: str
    """What is learned from: `graph`, the questions of all methods, or `synthetic`, KBLaM's own rows."""
    refusal: str
    """What is answered where no fact fits; it is learned from questions without one, if `refuses`."""
    refuses: bool
    """Whether questions without an answer are learned from (KBLaM) or left out (AtlasKV)."""

    def __post_init__(self) -> None:
        for name in ("every", "inner", "leaves", "block", "negatives", "negatives_every", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("size_weight", "roots", "grounding", "alpha", "negatives_most", "scored", "logit_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"method.{name} must be at least 0, not {getattr(self, name)}")
        for name, known in (("pooling", POOLINGS), ("rows", ROWS), ("selection", SELECTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"method.{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                )
        if not self.refusal.strip():
            raise ValueError("method.refusal must not be empty")


@dataclass(frozen=True, kw_only=True)
class Kblam(Vector):
    """KBLaM as published: its own narrow rows, refusals, all facts in one softmax, weighed against C."""


@dataclass(frozen=True, kw_only=True)
class KblamSameRows(Vector):
    """KBLaM trained on the rows that all methods get."""


@dataclass(frozen=True, kw_only=True)
class AtlasKv(Vector):
    """AtlasKV: facts are pruned by HiKVP while answering."""


@dataclass(frozen=True, kw_only=True)
class AtlasKvFlat(Vector):
    """AtlasKV without HiKVP: every fact is read. It answers with the adapter of AtlasKV."""


@dataclass(frozen=True, kw_only=True)
class AtlasKvAux(Vector):
    """AtlasKV with L_Aux over many facts, which the paper lacks."""
