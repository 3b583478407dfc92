"""Training AtlasKV on rows of one's choice, beside the DAG (AtlasKV, figure 7 and table 4).

The rows are KG2KV's, of facts and entities that training may see: key, value and question. They make a memory
of their own, as KBLaM's invented rows do, whose values may be other ones than those that are to be answered.
"""

import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from pipeline.config import ConfigError, UserError
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.batches import Pool, Train
from pipeline.model.fitting import fit
from pipeline.model.reader import Reader
from pipeline.model.settings import Vector
from pipeline.model.system import Example
from pipeline.model.vector import VectorSystem
from pipeline.trainer import Trainer

KINDS = ("entity", "event")
"""AtlasKV's two kinds of values, names and longer texts, told apart by where they come from: an event here is
an entity's description, for hardly any other value of a graph has so many words."""
PAIRINGS = ("right", "memory", "both")
"""Values as they are; permuted in the memory, while what is to be answered stays right; both permuted."""
DESCRIPTION = "the description of "


class Pupil(VectorSystem):
    """A method that learns to say what a question came with, whatever the memory holds for it."""

    def target(self, example: Example, facts: Sequence[int]) -> str:
        """Return the answer of the question, with the space that all answers begin with."""
        return f" {example.answers[0]}"


def drawn(graph: Graph, kv: pa.Table, count: int, seed: int) -> dict[str, pa.Table]:
    """Return so many rows of each of `KINDS` that training may see, fewer where there are fewer.

    `entity` rows mask the tail of a fact of the fold `train`; `event` rows are descriptions of entities that
    head such facts, and none of another fold's.

    Raises:
        UserError: there is no row of a kind.
    """
    folds = np.array(graph.facts["fold"].to_pylist())
    mine = (folds == "train") & graph.live(0)
    facts, tails = kv["fact"].to_numpy(), pc.equal(kv["side"], "tail").to_numpy()
    heads = np.array(graph.labels, dtype=object)[graph.triples[:, 0]]
    known = set(heads[mine]) - set(heads[folds != "train"])
    told = [
        side == "description" and key.removeprefix(DESCRIPTION) in known
        for side, key in zip(kv["side"].to_pylist(), kv["key"].to_pylist(), strict=True)
    ]
    found = {}
    for kind, rows in zip(KINDS, (tails & mine[facts], np.array(told)), strict=True):
        places = np.flatnonzero(rows)
        if not len(places):
            raise UserError(f"the table kv has no {kind} rows of the fold train; see synthesis.rows")
        chosen = np.random.default_rng([seed, *kind.encode()]).permutation(places)[:count]
        found[kind] = kv.take(pa.array(np.sort(chosen)))
    return found


def paired(values: Sequence[str], pairing: str, seed: int) -> tuple[list[str], list[str]]:
    """Return the value that the memory holds for each row, and the one that is to be answered."""
    right = list(values)
    order = np.random.default_rng([seed, *b"pairing"]).permutation(len(right)).tolist()
    other = [right[place] for place in order]
    return {"right": (right, right), "memory": (other, right), "both": (other, other)}[pairing]


class School:
    """What all lessons share: the frozen models and how long they last.

    Args:
        entry: a file of conf/method, perhaps with other values, that is KBLaM's or AtlasKV's.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: settings of memories.
        train: optimiser and batches; its learning rate for the method counts.
        trainer: devices.
        steps: of each lesson.
        scratch: folder for curves and checkpoints, which are removed.

    Raises:
        ConfigError: the entry is another method.
    """

    def __init__(
        self,
        entry: str,
        reader: Reader,
        encoder: TextEncoder,
        memory: Memory,
        train: Train,
        trainer: Trainer,
        steps: int,
        scratch: Path,
    ) -> None:
        variant = Variant.read(entry, memory)
        if not isinstance(variant.method, Vector):
            raise ConfigError(f"{entry!r} reads no vectors; choose kblam or atlaskv, or one like them")
        self.method = variant.method
        rate = train.learning_rates.get(variant.name.partition(":")[0], train.learning_rate)
        self.train = replace(train, learning_rate=rate)
        self.memory = replace(variant.memory, layout="slot")
        self.reader, self.encoder, self.trainer = reader, encoder, trainer
        self.steps, self.scratch = steps, scratch

    def taught(self, rows: pa.Table, pairing: str, seed: int, title: str) -> tuple[Pupil, pd.DataFrame]:
        """Return a system that was trained on `rows`, and its curve: a row a step."""
        memory = KnowledgeMemory(self.memory, self.encoder)
        held, answers = paired(rows["value"].to_pylist(), pairing, seed)
        names = [key.removeprefix("the ").split(" of ", 1) for key in rows["key"].to_pylist()]
        facts = [Fact(n, noun, v, n, noun, v) for (noun, n), v in zip(names, held, strict=True)]

        def bar(batches: Iterable[list[int]]) -> Iterable[list[int]]:
            return tqdm(batches, desc=f"{title} texts", unit="batch")

        ids = memory.upsert(facts, progress=bar).facts
        questions = rows["question"].to_pylist()
        examples = [Example(q, (a,), (row,)) for q, a, row in zip(questions, answers, ids, strict=True)]
        random.seed(seed)
        torch.manual_seed(seed)
        system = Pupil(self.method, self.reader, self.encoder, memory)
        curve = self.scratch / "curve.csv"
        checkpoints = self.scratch / "checkpoints"
        fit(
            system,
            Pool(examples, [], []),
            self.train,
            self.trainer,
            self.steps,
            seed,
            curve,
            checkpoints,
            [],
            progress=True,
        )
        shutil.rmtree(checkpoints)
        told = pd.read_csv(curve)
        curve.unlink()
        return system.eval(), told


def thinned(curve: pd.DataFrame, points: int) -> dict[str, list[Any]]:
    """Return at most so many points of a curve: the middle of each stretch of steps and its mean loss."""
    part = (np.arange(len(curve)) * min(points, len(curve))) // len(curve)
    means = curve.groupby(part)[["step", "lm_loss"]].mean()
    return {"step": means["step"].tolist(), "loss": means["lm_loss"].tolist()}


def last(curve: pd.DataFrame) -> list[float]:
    """Return the losses of the last tenth of the steps."""
    losses: list[float] = curve["lm_loss"].tolist()
    return losses[-max(1, len(losses) // 10) :]
