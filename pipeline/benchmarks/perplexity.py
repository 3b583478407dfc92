"""Measures what the memory does to ordinary text: `python -m pipeline.benchmark perplexity`.

The memory is asked the start of each text, and its end is scored: by the bare language model, with the memory
on, and with facts read even where none is found to answer. Perplexities and their ratios to the bare model's,
with intervals over texts, go to perplexity.json.
"""

import csv
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import resampled_means
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph
from pipeline.kg.sources.files import located
from pipeline.memory.settings import Memory
from pipeline.model.ours import OurSystem
from pipeline.model.reader import Reader
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

WAYS = ("bare", "on", "always")
"""The bare model, the memory on, and facts read whether any answers or not."""


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Which texts are scored, and how."""

    file: str
    """Below the data root: a text a line, or a table whose last column is the text."""
    texts: int
    """Texts at most, drawn by the first seed."""
    start_tokens: int
    """Tokens that the memory is asked."""
    end_tokens: int
    """Tokens that are scored; shorter texts are left out."""
    entries: list[str]
    """Variants of `ours`, as in conf/variants."""
    seeds: list[int]
    """Of the adapters; SEED in paths.adapters becomes each of them."""
    batch_size: int
    """Texts at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if not self.entries or not self.seeds:
            raise ValueError("perplexity.entries and perplexity.seeds must not be empty")
        for name in ("texts", "start_tokens", "end_tokens", "batch_size", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"perplexity.{name} must be at least 1, not {getattr(self, name)}")


@stage
def perplexity(
    perplexity: Perplexity,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Score the same texts with every entry and every seed's adapter."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    figures: dict[str, Any] = {}
    for entry in perplexity.entries:
        tables = []
        for seed in perplexity.seeds:
            system = Variant.read(entry, memory).open(lm, encoder, graph, paths, trainer.device, seed)
            if not isinstance(system, OurSystem):
                raise UserError(f"perplexity.entries: {entry!r} is no variant of ours")
            tables.append(_scored(system, halves(system.reader, perplexity), perplexity.batch_size, entry))
        nats = np.mean(tables, axis=0)
        figures[entry] = {"texts": len(nats)} | _ratios(nats, perplexity)
    told = provenance(overridden("python -m pipeline.benchmark perplexity"), perplexity.seeds)
    told |= {"facts": int(graph.live(0).sum()), "figures": figures}
    (out / "perplexity.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def halves(reader: Reader, settings: Perplexity) -> list[tuple[str, str]]:
    """Return the start and the end of each text.

    Raises:
        UserError: the file is missing, or no text of it is long enough.
    """
    file = located(settings.file, "put a file of texts there, or name another by perplexity.file")
    with file.open(encoding="utf-8", newline="") as lines:
        texts = [row[-1] for row in csv.reader(lines) if row] if file.suffix == ".csv" else list(lines)
    order = np.random.default_rng(settings.seeds[0]).permutation(len(texts)).tolist()
    found = []
    for tokens in (reader.encode([texts[place].strip()])[0] for place in order):
        if len(tokens) >= settings.start_tokens + settings.end_tokens:
            parts = tokens[: settings.start_tokens], tokens[settings.start_tokens :][: settings.end_tokens]
            found.append((reader.tokenizer.decode(parts[0]), reader.tokenizer.decode(parts[1])))
        if len(found) == settings.texts:
            break
    if not found:
        raise UserError(f"{file}: no text of {settings.start_tokens + settings.end_tokens} tokens in it")
    return found


def _scored(system: OurSystem, texts: Sequence[tuple[str, str]], size: int, name: str) -> NDArray[np.float64]:
    """Return the nats a token of each text in each of `WAYS`: [n, 3]."""
    rows = []
    for start in tqdm(range(0, len(texts), size), desc=name, unit="batch"):
        starts, ends = zip(*texts[start : start + size], strict=True)
        tokens = system.reader.continued(starts, ends)
        counts = (tokens.labels != -100).sum(dim=1)
        with system.attached():
            nats = [surprise(system, starts, ends, always) for always in (False, True)]
        rows.append(torch.stack([system.reader.surprise(tokens), *nats], dim=1) / counts[:, None])
    return torch.cat(rows).double().cpu().numpy()


@torch.no_grad()
def surprise(
    system: OurSystem, starts: Sequence[str], ends: Sequence[str], always: bool
) -> Float[Tensor, " B"]:
    """Return how much each end of an ordinary text surprises, in nats, the memory being asked its start.

    Args:
        system: attached.
        starts: what is searched by, and read.
        ends: what is scored.
        always: whether facts are read even where none is found to answer; otherwise the bare language
            model goes on there.
    """
    chosen, log_shares = system.select(starts)
    facts = [bool(chosen.facts[row]) and (always or not no) for row, no in enumerate(chosen.refused)]
    told = torch.zeros(len(starts), device=system.reader.device)
    for reads in (True, False):
        rows = [row for row, some in enumerate(facts) if some == reads]
        if rows:
            tokens = system.reader.continued([starts[row] for row in rows], [ends[row] for row in rows])
            with system.reads(rows, chosen, log_shares) if reads else nullcontext():
                told[rows] = system.reader.surprise(tokens)
    return told


def _ratios(nats: NDArray[np.float64], settings: Perplexity) -> dict[str, Any]:
    """Return perplexities, and how they relate to the bare model's, from the nats of each text."""
    drawn = resampled_means(nats, settings.bootstrap_samples, 0)
    told: dict[str, Any] = {}
    for place, way in enumerate(WAYS):
        ratio = np.exp(drawn[:, place] - drawn[:, 0])
        low, high = np.quantile(ratio, [0.025, 0.975]).tolist()
        mean = float(np.exp(nats[:, place].mean()))
        told[way] = {
            "perplexity": mean,
            "ratio": {"mean": mean / float(np.exp(nats[:, 0].mean())), "low": low, "high": high},
        }
    return told


if __name__ == "__main__":
    perplexity()
