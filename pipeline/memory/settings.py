"""The section `memory` of the configuration."""

import math
from dataclasses import dataclass

BACKENDS = ("exact", "codes", "int8", "hikvp", "hnsw", "ivf", "ivfpq")
LAYOUTS = ("factored", "slot")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How facts are laid out, found and read."""

    layout: str
    """`factored`: vectors of entities and relations; `slot`: one vector a (head, relation) pair."""
    N: int
    """Candidate facts of the coarse search (DySK-Attn: 200)."""
    k: int
    """Facts that the language model reads (DySK-Attn: 5)."""
    entities: int
    """Entities whose slots the factored search scores."""
    relation_weight: float
    """Weight of the relation's log-probability beside the entity's similarity."""
    backend: str
    """`exact`, `codes` (of one bit a dimension), `int8`, `hikvp`, `hnsw`, `ivf` or `ivfpq`."""
    links: int
    """Edges a node of the HNSW graph."""
    lists: int
    """Cells of the inverted file."""
    probes: int
    """Cells of the inverted file that a search visits, or nodes of the HNSW graph that it goes on from."""
    roots: int
    """k_R of HiKVP: clusters of clusters that a search goes into (AtlasKV: 128)."""
    inner: int
    """k_I of HiKVP: clusters that it goes into (AtlasKV: 64)."""
    spread: float
    """How much of the spread of a cluster's keys its score is raised by in HiKVP; AtlasKV's is 0."""
    rescored: int
    """Vectors that a search by `codes` or `ivfpq` compares, nearest by their codes, for each one wanted."""
    share: float
    """Of the codes that a search by `codes` compares in full: those whose first 192 bits differ least. A GPU
    compares all in full, whatever it is."""
    beam: int
    """Facts of the first hop whose tails are gone on from, for methods of two hops; 0 stays there."""
    merge_after: int
    """Facts changed on disk after which they are merged beside everything else, once they are a sixteenth of
    all; 0 leaves that to the command `merge`. Of the factored layout."""
    sources: list[str]
    """Who is believed where facts of one slot conflict, best first; all others alike, below these."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"memory.layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        if self.backend not in BACKENDS:
            raise ValueError(f"memory.backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        least = {"beam": 0, "merge_after": 0}
        counts = ("N", "k", "entities", "links", "lists", "probes", "roots", "inner", "rescored", *least)
        for name in counts:
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(
                    f"memory.{name} must be at least {least.get(name, 1)}, not {getattr(self, name)}"
                )
        if not 0 < self.share <= 1:
            raise ValueError(f"memory.share must be above 0 and at most 1, not {self.share}")
        for name in ("relation_weight", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"memory.{name} must be 0 or more, not {getattr(self, name)}")
        if self.k > self.N:
            raise ValueError(f"memory.k ({self.k}) must not exceed memory.N ({self.N})")
        self._check_sources()

    def _check_sources(self) -> None:
        if len(set(self.sources)) < len(self.sources) or not all(name.strip() for name in self.sources):
            raise ValueError(f"memory.sources must name each source once, not {self.sources}")
