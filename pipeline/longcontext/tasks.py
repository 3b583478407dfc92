"""Which long texts are asked about, and through which contexts: the section `longtasks`."""

from dataclasses import dataclass

from pipeline.longcontext.baselines.settings import Baselines
from pipeline.longcontext.corpora import check_sets
from pipeline.longcontext.fillers import check_kinds


@dataclass(frozen=True, kw_only=True)
class Passkey:
    """A number hidden in a text."""

    digits: int
    """Of the number."""
    fillers: list[str]
    """What it is hidden in: classic, manual, real."""
    lengths: list[int]
    """Tokens of a prompt."""
    samples: list[int]
    """Of each length, over depths from the beginning to the end."""
    batches: list[int]
    """Samples of each length that are read at once, where a context can hold as many."""

    def __post_init__(self) -> None:
        check_kinds(self.fillers, "longtasks.passkey.fillers")
        if not len(self.lengths) == len(self.samples) == len(self.batches):
            raise ValueError("longtasks.passkey: lengths, samples and batches must have one entry a length")
        if self.digits < 1 or min([1, *self.lengths, *self.samples, *self.batches]) < 1:
            raise ValueError("longtasks.passkey: digits, lengths, samples and batches must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions whose passages stand among others."""

    sets: list[str]
    """nq, hotpotqa, both or none; files below the data root."""
    length: int
    """Tokens of a prompt."""
    samples: int
    """Questions of each set at most, drawn by the seed."""
    batch: int
    """Prompts that are read at once."""
    answer_tokens: int
    """Tokens of an answer at most."""

    def __post_init__(self) -> None:
        check_sets(self.sets, "longtasks.questions.sets")


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """A stream of news."""

    contexts: list[str]
    """What reads it; entries as in `contexts`, of constant memory."""
    items: int
    """Items told, made-up ones included; 0 leaves the task out."""
    streams: int
    """Streams with the same real items and other made-up ones, read at once."""
    segment: int
    """Tokens between two rounds of questions."""
    made: int
    """Made-up items of a segment and stream."""
    questions: int
    """Questions of a round and stream at most."""
    headlines: int
    """Headlines of a round and stream."""
    answer_tokens: int
    """Tokens of an answer."""
    headline_tokens: int
    """Tokens of a headline."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Questions whose passages are searched first."""

    sets: list[str]
    """As `questions.sets`."""
    passages: int
    """How many are searched: real ones, then made-up ones."""
    samples: int
    """Questions of each set at most, drawn by the seed."""
    ways: list[str]
    """WAY:key=value,…@CONTEXT: what of the found is read (see `ragways`), and through what."""
    batch: int
    """Prompts that are read at once."""
    answer_tokens: int
    """Tokens of an answer at most."""

    def __post_init__(self) -> None:
        check_sets(self.sets, "longtasks.searched.sets")


@dataclass(frozen=True, kw_only=True)
class LongTasks:
    """The section; see the module."""

    contexts: list[str]
    """NAME or NAME:key=value,… with other settings; the first is what the others are compared with."""
    at_once: dict[str, int]
    """Tokens of all texts that the contexts of a name can read at once, where that is bounded: batches are
    made smaller to fit, and longer texts left out."""
    most_tokens: dict[str, int]
    """Tokens of all samples of a row that the contexts of a name read at most, where all would take too long:
    fewer samples then, over the same depths."""
    chunk: int
    """Tokens that are read at once, of each text."""
    asked: int
    """Tokens at a prompt's end that count as the question."""
    passkey: Passkey
    """The first task."""
    questions: Questions
    """The second."""
    streaming: Streaming
    """The third."""
    searched: Searched
    """The fourth."""
    baselines: Baselines
    """Of the contexts that are not DSRAM."""
    bootstrap_samples: int
    """Resamples behind intervals of paired differences."""

    def __post_init__(self) -> None:
        if not self.contexts:
            raise ValueError("longtasks.contexts must not be empty")
        if min([1, *self.at_once.values(), *self.most_tokens.values()]) < 1:
            raise ValueError("longtasks.at_once and longtasks.most_tokens must be at least 1 each")
        for name in ("chunk", "asked", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"longtasks.{name} must be at least 1, not {getattr(self, name)}")

    def fitting(self, entry: str, length: int, count: int, size: int) -> tuple[int, int]:
        """Return every how manieth of `count` samples a context reads, and how many of them at once.

        Args:
            entry: of `contexts`.
            length: tokens of each sample.
            count: of samples.
            size: of batches, where all fits.

        Returns:
            A batch of 0 where one text is too long.
        """
        name = entry.partition(":")[0]
        step = -(-count * length // self.most_tokens.get(name, count * length))
        held = self.at_once.get(name, size * length) // length
        return step, min(size, held, -(-count // step))
