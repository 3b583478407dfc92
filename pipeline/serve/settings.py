"""What `python -m pipeline.serve` is told: the section `serve` of conf/."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.memory.journal import POLICIES


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What is served, where, and how much of it at a time."""

    host: str
    """Address that the server listens at; one that other machines reach needs a token that you give."""
    port: int
    """Its port; 0 takes a free one, which the first line of the log names."""
    memory: Path
    """Folder of the memory, or `cluster:NAME@HOST:PORT`; a new folder begins with the memory of the stage
    `index`, else with the example facts."""
    facts: Path | None
    """A file of facts that a new memory begins with instead."""
    adapter: Path | None
    """Folder of the adapter; null takes the one that was trained here, else the shipped one."""
    snapshots: Path
    """Folder below which snapshots are written."""
    token_file: Path | None
    """File that holds the token for writing, unless LIVING_MEMORY_TOKEN does; null makes a token at start."""
    sync: str
    """When a change is on disk, see `pipeline.memory.journal.Journal`: always, group or none."""
    batch: int
    """Questions that are answered side by side at most."""
    waiting: int
    """Questions that may wait for a place beyond that; more are turned away with 429."""
    retry_after: int
    """Seconds after which a client that was turned away is asked to come again."""
    grace: float
    """Seconds that running answers are given to end in when the server is told to stop."""
    threads: int | None
    """Threads that the model computes with; null leaves it to torch, which takes every core."""
    nice: int
    """How far those threads give way to all others, on Linux: from 0, not at all, to 19."""
    fast: bool
    """Whether a question that is alone is answered by what torch compiles and a GPU records."""

    names: list[str]
    """Names that the server may be called by in the Host header, besides localhost and addresses."""
    body_bytes: int
    """Bytes of a body at most, however it comes."""
    import_bytes: int
    """Bytes of a body of facts, one a line, at most."""
    import_facts: int
    """Facts of such a body that are written at once: all of them, or none."""
    page: int
    """Facts, or entities, that one answer lists at most."""
    writes_per_second: float
    """Changes that a client may make in the long run; more are turned away with 429."""
    writes_at_once: int
    """Changes that a client may make at once after a pause."""
    questions_per_second: float
    """Questions and searches that a client may send in the long run; more are turned away with 429."""
    questions_at_once: int
    """Questions and searches that a client may send at once after a pause."""
    clients: int
    """Clients whose rates are kept in mind; those that came longest ago are forgotten first."""
    repeats: int
    """Idempotency keys that are remembered; the oldest are forgotten first."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"serve.port must be from 0 to 65535, not {self.port}")
        if self.sync not in POLICIES:
            raise ValueError(f"serve.sync must be one of {', '.join(POLICIES)}, not {self.sync!r}")
        if not 0 <= self.nice <= 19:
            raise ValueError(f"serve.nice must be from 0 to 19, not {self.nice}")
        ones = ("batch", "retry_after", "threads", "body_bytes", "import_bytes", "import_facts", "page")
        more = ("clients", "repeats", "writes_at_once", "questions_at_once")
        least = dict.fromkeys(ones + more, 1) | {"waiting": 0, "grace": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise ValueError(f"serve.{name} must be at least {bound}, not {value}")
        for name in ("writes_per_second", "questions_per_second"):
            if getattr(self, name) <= 0:
                raise ValueError(f"serve.{name} must be larger than 0, not {getattr(self, name)}")
