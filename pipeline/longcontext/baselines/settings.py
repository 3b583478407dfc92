"""The values of the baselines: the section `baselines` of `longtasks`."""

from dataclasses import dataclass
from math import ceil

POOLS = ("mean", "max")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """How the end of a prompt is looked at before the rest is dropped."""

    queries: int
    """Last tokens whose attention counts, and which are kept in any case (SnapKV: 64, KV-Compress: 8)."""
    pooling: int
    """Neighbours that a score is pooled over, itself too; odd (KV-Compress: 7; SnapKV's code: 5 or 7)."""
    pool: str
    """`max` (KV-Compress, which says that of SnapKV too) or `mean` (the default of SnapKV's code)."""

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, not {self.queries}")
        if self.pooling < 1 or self.pooling % 2 == 0:
            raise ValueError(f"pooling must be odd and at least 1, not {self.pooling}")
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")


@dataclass(frozen=True, kw_only=True)
class Razor:
    """RazorAttention: which heads are retrieval heads, and how far the others see."""

    tokens: int
    """Random tokens that are repeated while heads are scored (the paper: 2500)."""
    repeats: int
    """How often they stand in the text (the paper: 4)."""
    induction: float
    """Share of heads that are kept whole for their induction score (the paper: 0.14)."""
    echo: float
    """Share of heads that are kept whole for their echo score (the paper: 0.01)."""
    sinks: int
    """First tokens that the other heads keep (the paper: 4)."""
    budgeted: bool
    """Whether the other heads' window is what `budget` leaves them; else it is the paper's,
    max(least, tokens of the prompt / part)."""
    least: int
    """S₀ (the paper: 4000)."""
    part: int
    """C (the paper: 5)."""

    def __post_init__(self) -> None:
        for name in ("tokens", "repeats"):
            if getattr(self, name) < 2:
                raise ValueError(f"razor.{name} must be at least 2, not {getattr(self, name)}")
        for name in ("least", "part"):
            if getattr(self, name) < 1:
                raise ValueError(f"razor.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("induction", "echo"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"razor.{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.sinks < 0:
            raise ValueError(f"razor.sinks must be 0 or more, not {self.sinks}")


@dataclass(frozen=True, kw_only=True)
class Quest:
    """Quest: pages of the cache that a token of the answer reads."""

    page: int
    """Tokens of a page (the paper: 16)."""
    dense: int
    """Lowest layers that read everything (the paper: 2)."""

    def __post_init__(self) -> None:
        if self.page < 1 or self.dense < 0:
            raise ValueError(
                f"quest.page must be at least 1 and quest.dense 0 or more, not {self.page}, {self.dense}"
            )


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """ChunkLandmarks: chunks that are fetched by their mean key."""

    chunk: int
    """Tokens of a chunk (GCA: 64)."""
    chunks: int
    """Chunks that are fetched (GCA: 8)."""
    window: int
    """Latest tokens that are seen in any case (GCA: 512)."""
    offload: bool
    """Whether chunks lie in host memory, as GCA's do."""

    def __post_init__(self) -> None:
        for name in ("chunk", "chunks", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"landmarks.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What other work keeps of a long text; one `budget` for all, so that they compare at equal bytes."""

    budget: float
    """Tokens that a layer's head keeps of a prompt, on average over heads and layers: a share of its tokens
    up to 1, their number above. Quest keeps all and reads so many; ChunkLandmarks has sizes of its own."""
    sinks: int
    """First tokens that StreamingLLM and ChunkLandmarks keep (StreamingLLM: 4)."""
    snapkv: Observation
    """Of SnapKV and PyramidKV."""
    beta: float
    """β of PyramidKV (20)."""
    per_head: Observation
    """Of per-head eviction."""
    razor: Razor
    """Of RazorAttention."""
    quest: Quest
    """Of Quest."""
    landmarks: Landmarks
    """Of ChunkLandmarks."""

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise ValueError(f"longtasks.baselines.budget must be above 0, not {self.budget}")
        if self.sinks < 0:
            raise ValueError(f"longtasks.baselines.sinks must be 0 or more, not {self.sinks}")
        if self.beta < 1:
            raise ValueError(f"longtasks.baselines.beta must be at least 1, not {self.beta}")


def tokens(budget: float, prompt: int) -> int:
    """Return how many of a prompt's tokens a budget allows: a share of them up to 1, a number above."""
    return min(prompt, ceil(budget * prompt) if budget <= 1 else int(budget))
