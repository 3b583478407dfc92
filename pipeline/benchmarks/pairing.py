"""Draws AtlasKV's figure 7 for our setting: `python -m pipeline.benchmark pairing`.

The training loss of AtlasKV on KG2KV rows whose keys have their own values and on rows whose values are
permuted, for each sentence encoder. The curves and the loss at their end go to pairing.json.
"""

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from omegaconf import OmegaConf

from pipeline.config import CONF, ConfigError, Paths, options, section, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.learning import PAIRINGS, School, drawn, last, thinned
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.settings import Memory
from pipeline.model.batches import Train
from pipeline.model.reader import Reader
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What is trained, on what."""

    entry: str
    """KBLaM or AtlasKV, as a file of conf/method, perhaps with other values."""
    encoders: list[str]
    """Files of conf/encoder, or others like them by their path, which ends with .yaml."""
    pairings: list[str]
    """`right`, `memory` (values permuted in the memory alone), `both` (answers permuted with them)."""
    rows: int
    """Rows of a kind, names and descriptions; all of both are learned from."""
    seeds: list[int]
    """Of the rows, of the permutation and of training."""
    steps: int
    """Optimiser steps."""
    points: int
    """Points of a curve that are kept."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if not self.encoders or not self.seeds:
            raise ValueError("pairing.encoders and pairing.seeds must not be empty")
        if not self.pairings or set(self.pairings) - set(PAIRINGS):
            raise ValueError(f"pairing.pairings must be some of {', '.join(PAIRINGS)}, not {self.pairings}")
        if min(self.rows, self.steps, self.points, self.bootstrap_samples) < 1:
            raise ValueError("pairing.rows, steps, points and bootstrap_samples must be at least 1")


@stage
def pairing(
    pairing: Pairing,
    memory: Memory,
    lm: LanguageModel,
    train: Train,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Train with every encoder and pairing, with every seed."""
    graph, kv = Graph.read(paths.tables, relations=paths.kv), read_table(paths.kv, "kv")
    rows = {seed: pa.concat_tables(drawn(graph, kv, pairing.rows, seed).values()) for seed in pairing.seeds}
    reader = Reader(lm, trainer.device)
    figures: dict[str, Any] = {}
    for name in pairing.encoders:
        encoder = named(name)
        texts = TextEncoder(encoder, trainer.device)
        school = School(pairing.entry, reader, texts, memory, train, trainer, pairing.steps, out)
        curves: dict[str, list[pd.DataFrame]] = {}
        for seed, kind in product(pairing.seeds, pairing.pairings):
            _, curve = school.taught(rows[seed], kind, seed, f"{encoder.name}, {kind}, seed {seed}")
            curves.setdefault(kind, []).append(curve)
        figures[encoder.name] = {kind: _figures(found, pairing) for kind, found in curves.items()}
    told = provenance(overridden("python -m pipeline.benchmark pairing"), pairing.seeds)
    told |= {"settings": asdict(pairing), "figures": figures}
    (out / "pairing.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def named(name: str) -> Encoder:
    """Return the encoder of a file of conf/encoder, or of another one by its path.

    Raises:
        ConfigError: there is no such file, or it is no encoder's.
    """
    file = Path(name) if name.endswith(".yaml") else CONF / "encoder" / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(
            f"pairing.encoders: no {name!r} in conf/encoder; it has {', '.join(options('encoder'))}"
        )
    found: Encoder = section(Encoder, OmegaConf.load(file), "encoder")
    return found


def _figures(curves: list[pd.DataFrame], pairing: Pairing) -> dict[str, Any]:
    """Return the mean curve of all seeds, and the mean loss of the last tenth of the steps."""
    ends = [last(curve) for curve in curves]
    mean = pd.concat(curves).groupby("step")["lm_loss"].mean().reset_index()
    [interval] = bootstrap(np.concatenate(ends), pairing.bootstrap_samples, 0)
    told = {"curve": thinned(mean, pairing.points), "last": interval._asdict()}
    return told | {"last_by_seed": [float(np.mean(end)) for end in ends]}


if __name__ == "__main__":
    pairing()
