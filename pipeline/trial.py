"""One job of a sweep: `python -m pipeline.trial` trains a method, or takes its adapter as it is, and asks it.

`python -m pipeline.trial sweep=k` runs the jobs that conf/sweep/k.yaml lists, as one group in Weights &
Biases; what they found, side by side, goes to a table and a figure (`pipeline.reporting.sweeps`). Of itself a
trial reads and writes what `train` and `evaluate` do, with both outputs in one folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.checked import asked
from pipeline.evaluation.editors import Editing
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.majority import Majority
from pipeline.evaluation.methods import Answerer, build
from pipeline.evaluation.runs import Evaluate, run
from pipeline.evaluation.systems import NAMES, Method, SystemAnswerer
from pipeline.evaluation.training import Trained, fitted, settings_of
from pipeline.kg.facts import Graph
from pipeline.memory.settings import Memory
from pipeline.model.batches import Train
from pipeline.tracking import Logger
from pipeline.tracking import run as tracking
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a job does, and what it is worth."""

    train: bool
    """Whether it trains an adapter of its own; else it takes that at `paths.adapters`."""
    split: str
    """Split whose figure Hydra's sweeper gets to see: `valid`, if anything is to be chosen by it."""
    figure: str
    """Which figure of it: em, f1, acc@1, recall@200 …"""


@stage
def trial(
    trial: Trial,
    method: Method | Majority | Editing,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    evaluate: Evaluate,
    logger: Logger,
    paths: Paths,
    seed: int,
    out: Path,
) -> float:
    """Return the figure that the sweep is about; the others are in trial.json."""
    if trial.split not in evaluate.splits:
        raise UserError(
            f"trial.split: {trial.split!r} is not asked; choose one of evaluate.splits ({evaluate.splits})"
        )
    graph = Graph.read(paths.tables, relations=paths.kv)
    sections: dict[str, Any] = {
        "method": method,
        "memory": memory,
        "lm": lm,
        "encoder": encoder,
        "seed": seed,
    }
    answerer: Answerer
    if trial.train:
        if not isinstance(method, Trained):
            raise UserError(f"trial.train: {type(method).__name__} has no adapter; set trial.train=false")
        train = settings_of(method, train)
        sections["train"] = train
    with tracking(logger, out, sections) as tracked:
        if trial.train and isinstance(method, Trained):
            system = fitted(method, memory, lm, encoder, train, trainer, paths, seed, out, tracked)
            answerer = SystemAnswerer(NAMES[type(method)], system.eval(), graph)
        else:
            answerer = build(method, memory=memory, lm=lm, encoder=encoder, graph=graph, paths=paths)
        metrics = run(answerer, graph, asked(paths, graph, evaluate.splits), evaluate, seed, out)
        tracked.summarize({"evaluate": metrics})
    told = provenance(overridden("python -m pipeline.trial"), [seed])
    told |= {"overrides": dict(word.lstrip("+").split("=", 1) for word in HydraConfig.get().overrides.task)}
    (out / "trial.json").write_text(
        json.dumps(told | {"metrics": metrics}, indent=1) + "\n", encoding="utf-8"
    )
    found = metrics["splits"].get(trial.split, {}).get(trial.figure)
    if found is None:
        raise UserError(
            f"trial.figure: {answerer.name} has no {trial.figure!r} on {trial.split}; choose em or another "
            f"of {out / 'metrics.json'}"
        )
    return float(found["mean"])


if __name__ == "__main__":
    trial()
