"""The values of long contexts: the section `longcontext` and what is nested in it."""

from dataclasses import dataclass

PRECISIONS = ("int8", "float16", "bfloat16", "float32")
SUMMARY_PRECISIONS = ("int8", "float16")
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
    """What latents are kept in: int8 (a scale a token), float16, bfloat16 or float32."""
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
