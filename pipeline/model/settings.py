"""The values of our method: the section `method` of `ours`."""

from dataclasses import dataclass

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
        if min(self.letters_width, self.null_width) < 1:
            raise ValueError("method.letters_width and null_width must be at least 1")
        if self.head_width < 1 or self.fact_cache < 0 or min(self.entity_scale, self.relation_scale) <= 0:
            raise ValueError(
                "method.head_width must be at least 1, fact_cache at least 0, "
                "entity_scale and relation_scale above 0"
            )
