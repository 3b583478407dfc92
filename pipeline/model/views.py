"""Questions, each with the heads that ask the memory for it: the system's own, or others in their place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.model.heads import RetrievalHeads
from pipeline.model.ours import OurSystem
from pipeline.model.refusing import BATCH
from pipeline.model.system import Example

Views = Sequence[tuple[RetrievalHeads, Sequence[Example]]]


@contextmanager
def asked_by(system: OurSystem, heads: RetrievalHeads) -> Iterator[None]:
    """Let the system ask its memory by other heads inside this block."""
    own, system.heads = system.heads, heads
    try:
        yield
    finally:
        system.heads = own


def batches(system: OurSystem, views: Views) -> Iterator[Sequence[Example]]:
    """Return the questions in batches; until the next one, the system asks by the heads of its view."""
    for heads, examples in views:
        with asked_by(system, heads):
            yield from (examples[start : start + BATCH] for start in range(0, len(examples), BATCH))
