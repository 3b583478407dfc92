"""What a person who asks sees of the compiled path: the same replies, and answers that come word by word."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from pipeline.benchmarks.clock import Clock
from pipeline.model.decoder import Decoder
from pipeline.model.fast import Fast
from pipeline.model.ours import OurSystem
from pipeline.serve.session import PROMPT, Session
from pipeline.serve.start import Started


def compared(system: OurSystem, fast: Fast, batches: Sequence[list[str]]) -> dict[str, int]:
    """Return for how many questions text, facts and refusal are those of the ordinary path."""
    told = dict.fromkeys(("questions", "same texts", "same facts", "same refusals"), 0)
    for batch in batches:
        found = fast.reply(batch)
        with system.attached():
            expected = system.reply(batch)
        told["questions"] += len(batch)
        for name in ("texts", "facts"):
            pairs = zip(getattr(found, name), getattr(expected, name), strict=True)
            told[f"same {name}"] += sum(left == right for left, right in pairs)
        pairs = zip(found.refused, expected.refused, strict=True)
        told["same refusals"] += sum(left == right for left, right in pairs)
    return told


@torch.no_grad()
def streamed(system: OurSystem, texts: Sequence[str], backend: str, ahead: bool) -> dict[str, list[float]]:
    """Return milliseconds of each way: to the first token as text, and of every later one.

    A session is asked, of one question at a time, and beside it the bare model, which says what it says.
    Each question was asked before, so that its facts are known. What is refused doesn't count.

    Args:
        system: trained.
        texts: the questions.
        backend: what torch compiles with, the bare model too.
        ahead: see `pipeline.model.fast`.
    """
    session = Session(Started(system, Path(), Path()))
    session.compile(backend, ahead)
    reader = system.reader
    bare = Decoder(reader, 1, PROMPT, system.answer_tokens, backend=backend)
    bare.warm()
    clock = Clock(reader.device)
    for text in texts:
        answer, pieces = session.stream(text)
        if answer.refused or len(list(pieces)) < 2:
            continue
        _listen(clock, "bare streamed", partial(_bare, bare, text))
        _listen(clock, "streamed", partial(_ours, session, text))
    return clock.took


def _bare(bare: Decoder, text: str) -> Iterator[object]:
    return bare.spoken(bare.prefill(bare.reader.prompts([text])))


def _ours(session: Session, text: str) -> Iterator[object]:
    return session.stream(text)[1]


def _listen(clock: Clock, name: str, ask: Callable[[], Iterator[object]]) -> None:
    clock.wait()
    began = time.perf_counter()
    pieces = ask()
    next(pieces)
    first = time.perf_counter()
    count = sum(1 for _ in pieces)
    last = time.perf_counter()
    clock.add(f"{name} first token", (first - began) * 1000)
    clock.add(f"{name} later token", (last - first) * 1000 / count)
