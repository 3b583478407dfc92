"""Measures what the memory costs in time: `python -m pipeline.benchmark speed`.

The bare language model and every variant of `ours` answer the same questions through the same fixed shapes,
compiled and recorded or not, in turns. Prefill counts everything from the questions' text to the first token:
for ours the question's vector, the search over all facts and the tokens of those that are read, which were
computed before or (`cold`) are now. Milliseconds a batch and their ratios go to speed.json, with how many
replies are those of the ordinary path, and what a session that streams its answers takes.
"""

import json
import logging
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.benchmarks.clock import Clock
from pipeline.benchmarks.served import compared, streamed
from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.disk import write_whole
from pipeline.memory.settings import Memory
from pipeline.model.decoder import Decoder
from pipeline.model.fast import Fast
from pipeline.model.ours import OurSystem
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

log = logging.getLogger(__name__)
WARM_UP = 3
"""Batches that are not counted."""
PAIRS = {
    "prefill": "bare prefill",
    "cold prefill": "bare prefill beside cold",
    "step": "bare step",
}
"""Ways, and those of the bare model that they are held against."""
STREAMED = {f"streamed {name} token": f"bare streamed {name} token" for name in ("first", "later")}
"""Likewise of answers that are streamed."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What is timed, and how often."""

    entries: list[str]
    """Variants of `ours`, as in conf/variants."""
    seed: int
    """Of the adapter and of the questions that are drawn."""
    split: str
    """Of the questions."""
    batch_sizes: list[int]
    """Questions at a time."""
    prompt_tokens: int
    """Tokens of the longest prompt; longer questions are left out."""
    answer_tokens: int
    """Places for answers; at least `steps` + 1."""
    fact_tokens: list[int]
    """Places for the tokens of the facts that a question reads; the least of these that is enough counts."""
    repeats: int
    """Batches of each size, each timed in every way."""
    steps: int
    """Steps of decoding that are timed together."""
    backend: str
    """What torch compiles with, of the bare model too, before it is recorded: `inductor`; "" for nothing."""
    ahead: bool
    """Whether the device goes on with what it chose before the host knows; see `pipeline.model.fast`."""
    compared: int
    """Questions of each size whose fast replies are held against the ordinary ones; 0 for none."""
    streamed: int
    """Questions whose answers are streamed by a session, one at a time; 0 for none."""
    bootstrap_samples: int
    """Resamples of the repeats behind each interval."""

    def __post_init__(self) -> None:
        if not self.entries or not self.batch_sizes:
            raise ValueError("speed.entries and speed.batch_sizes must not be empty")
        for name in ("prompt_tokens", "repeats", "steps", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"speed.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("batch_sizes", "fact_tokens"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"speed.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("compared", "streamed"):
            if getattr(self, name) < 0:
                raise ValueError(f"speed.{name} must be 0 or more, not {getattr(self, name)}")
        if self.answer_tokens <= self.steps:
            raise ValueError(f"speed.answer_tokens must be above speed.steps, not {self.answer_tokens}")


@stage
def speed(
    speed: Speed,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Time every entry beside the bare model."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    table = read_table(paths.kv, "questions").to_pylist()
    asked = [row["text"] for row in table if row["split"] == speed.split and row["facts"]]
    figures: dict[str, Any] = {}
    told = provenance(overridden("python -m pipeline.benchmark speed"), [speed.seed])
    told |= {"facts": int(graph.live(0).sum()), "settings": asdict(speed), "figures": figures}
    for entry in speed.entries:
        system = Variant.read(entry, memory).open(lm, encoder, graph, paths, trainer.device, speed.seed)
        if not isinstance(system, OurSystem):
            raise UserError(f"speed.entries: {entry!r} is no variant of ours")
        texts = drawn(system, asked, speed)
        for size in speed.batch_sizes:
            title = f"{entry}, {size} at a time"
            took, same = timed(system, texts, size, speed, title)
            figures.setdefault(entry, {})[str(size)] = summary(took, PAIRS, speed) | same
            # After every size: a run that is cut short keeps what it has.
            _write(out, told)
        if speed.streamed:
            asked_of = [texts[place % len(texts)] for place in range(speed.streamed)]
            took = streamed(system, asked_of, speed.backend, speed.ahead)
            answers = {"answers": len(took.get("streamed first token", []))}
            figures[entry]["streamed"] = answers | (summary(took, STREAMED, speed) if took else {})
            _write(out, told)


def _write(out: Path, told: dict[str, Any]) -> None:
    write_whole(out / "speed.json", json.dumps(told, indent=1).encode() + b"\n")


def drawn(system: OurSystem, asked: list[str], settings: Speed) -> list[str]:
    """Return the questions that fit, in an order of their own.

    Raises:
        UserError: there is none.
    """
    order = random.Random(settings.seed).sample(sorted(set(asked)), len(set(asked)))
    fits = [t for t in order[:5000] if system.reader.tokens([t]).ids.shape[1] <= settings.prompt_tokens]
    if not fits:
        raise UserError(
            f"speed.split: no question of {settings.split!r} has at most {settings.prompt_tokens} tokens"
        )
    return fits


def timed(
    system: OurSystem, texts: list[str], size: int, settings: Speed, title: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return milliseconds of each way, one a repeat; and how often facts were read once more, or said else.

    What prefill is made of is timed once more, each part by itself: see `_parts`.
    """
    shape = (size, settings.prompt_tokens, settings.answer_tokens)
    reader = system.reader
    bare = Decoder(reader, *shape, backend=settings.backend)
    fast = Fast(system, *shape, settings.fact_tokens, settings.backend, settings.ahead)
    clock = Clock(reader.device)
    turns = range(settings.repeats + WARM_UP)
    batches = [[texts[(turn * size + place) % len(texts)] for place in range(size)] for turn in turns]
    began = time.perf_counter()
    for batch in batches:  # whatever they need is compiled
        bare.prefill(reader.prompts(batch))
        bare.step()
        if fast.first(batch) is None:
            raise UserError(f"speed.fact_tokens: {settings.fact_tokens} are too few for {batch}")
        fast.step()
    log.info("%s: all batches once, which compiles, took %.1f s", title, time.perf_counter() - began)
    for batch in batches:
        with clock.timing("bare prefill beside cold"):
            bare.prefill(reader.prompts(batch))
        fast.forget()
        with clock.timing("cold prefill"):
            fast.first(batch)
    for batch in batches:  # from here on all facts are known
        fast.first(batch)
    again = fast.again
    for batch in tqdm(batches, desc=title, unit="batch"):
        with clock.timing("bare prefill"):
            bare.prefill(reader.prompts(batch))
        with clock.timing("bare step", settings.steps):
            _steps(bare, settings.steps)
        with clock.timing("prefill"):
            fast.first(batch)
        with clock.timing("step", settings.steps):
            _steps(fast, settings.steps)
        _parts(system, fast, batch, clock)
    again = fast.again - again
    told: dict[str, Any] = {"prefills": len(batches), "read once more": again}
    if settings.compared:
        told["compared"] = compared(system, fast, batches[: -(-settings.compared // size)])
    return {name: values[WARM_UP:] for name, values in clock.took.items()}, told


@torch.no_grad()
def _parts(system: OurSystem, fast: Fast, batch: list[str], clock: Clock) -> None:
    """Time parts of prefill, the device waited for in between: together they take longer than at once.

    `finding` is all before the language model goes on with the facts; `finding, as written` does the same by
    `OurSystem.select`, without what becomes of the facts then. It is done once before, for it keeps what it
    has read of texts.
    """
    with clock.timing("part: prompt"):
        prompts = system.reader.prompts(batch)
    with clock.timing("part: finding"):
        _, facts = fast.found(batch)
    with clock.timing("part: reading"):
        fast.read(prompts, facts)
    system.select(batch)
    with clock.timing("part: finding, as written"):
        system.select(batch)


def _steps(decoder: Decoder | Fast, count: int) -> None:
    for _ in range(count):
        decoder.step()


def summary(found: dict[str, list[float]], pairs: dict[str, str], settings: Speed) -> dict[str, Any]:
    """Return the median milliseconds of each way, and the ratios of `pairs` in the same turn."""
    told: dict[str, Any] = {f"{name} ms": float(np.median(values)) for name, values in found.items()}
    for name, base in pairs.items():
        ratios = np.array(found[name]) / np.array(found[base])
        [interval] = bootstrap(ratios, settings.bootstrap_samples, 0)
        told[f"{name} ratio"] = interval._asdict() | {"median": float(np.median(ratios))}
    return told


if __name__ == "__main__":
    speed()
