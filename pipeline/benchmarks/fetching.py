"""Measures whether PPO pays: `python -m pipeline.benchmark fetching longcontext=h100`.

Trains DSRAM's retriever with several seeds and prices of a block on texts that are read once, and compares
each policy with its supervised warm start at equal accuracy: see `pipeline.evaluation.fetching`. What is
found goes to fetching.json after each training, with the curves, and to a figure.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.config import stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.fetching import Measured, compared, read_once, saved
from pipeline.longcontext.lessons import TRAIN
from pipeline.longcontext.running import Runner
from pipeline.longcontext.schooling import Schooled, schooled, steps
from pipeline.longcontext.settings import LongContext
from pipeline.longcontext.training import Row
from pipeline.memory.disk import write_whole
from pipeline.reporting.figures import Panel, Point, panels, save_png
from pipeline.trainer import Trainer
from pipeline.weights import LanguageModel, load_language_model


@dataclass(frozen=True, kw_only=True)
class Fetching:
    """What is repeated."""

    seeds: list[int]
    """Of trainings; texts and questions are those of `seed`."""
    betas: list[float]
    """β: prices of a block."""

    def __post_init__(self) -> None:
        if not self.seeds or not self.betas:
            raise ValueError("fetching.seeds and fetching.betas must not be empty")


@stage
def fetching(
    fetching: Fetching, longcontext: LongContext, lm: LanguageModel, trainer: Trainer, seed: int, out: Path
) -> None:
    """Train and compare.

    Raises:
        UserError: files that the lessons are made of are missing.
    """
    training = longcontext.training
    model, tokenizer = load_language_model(lm, trainer.device)
    runner = Runner(model, training.teaching.chunk)
    answers = read_once(runner, tokenizer, longcontext, seed)
    told = provenance(overridden("python -m pipeline.benchmark fetching"), fetching.seeds)
    told |= {"settings": {"longcontext": asdict(longcontext), "lm": lm.name}, "betas": {}}
    told["questions"] = {fold: len(one.recorded.lessons.rows) for fold, one in answers.items()}
    before: dict[int, Schooled] = {}
    of_seed = steps(training) + training.ppo.rounds * len(fetching.betas)
    with tqdm(total=of_seed * len(fetching.seeds), desc="retrievers") as bar:

        def tell(phase: str, row: Row) -> None:
            bar.update()

        for beta in fetching.betas:
            priced = replace(training, ppo=replace(training.ppo, beta=beta))
            runs: list[dict[str, Any]] = []
            pairs: list[tuple[Measured, Measured]] = []
            for number in fetching.seeds:
                found = schooled(runner, answers[TRAIN], priced, number, tell, before.get(number))
                before[number] = found
                figures, policy, warm = compared(found, answers, priced, lambda: None)
                pairs.append((policy, warm))
                runs.append({"seed": number, "curves": found.curves} | figures)
                policies, starts = zip(*pairs, strict=True)
                together = saved(policies, starts, training.bootstrap_samples, 0)
                told["betas"][str(beta)] = {"together": together, "runs": runs}
                write_whole(out / "fetching.json", json.dumps(told, indent=1).encode() + b"\n")
                shown = {name: f"{value:.3f}" for name, value in together["saved"].items()}
                tqdm.write(f"beta {beta}, seed {number}: saved {shown}, right {together['right']}")
    save_png(panels(drawn(told["betas"])), out / "fetching.png")


def drawn(betas: dict[str, Any]) -> list[Panel]:
    """Return a panel: who is right how often, by the blocks that are fetched, of all seeds."""
    first = next(iter(betas.values()))
    curves: dict[str, list[Point]] = {"warm start": _curve([run["warm"] for run in first["runs"]])}
    for beta, row in betas.items():
        curves[f"PPO, β = {beta}"] = _curve([run["policy curve"] for run in row["runs"]])
    return [Panel("all seeds", curves, "blocks fetched a question", "share of right answers")]


def _curve(runs: list[list[dict[str, Any]]]) -> list[Point]:
    """Return the means over seeds of each way, by rising number of blocks."""
    found = []
    for rows in zip(*runs, strict=True):
        blocks, right = (sum(row["test"][name] for row in rows) / len(rows) for name in ("blocks", "right"))
        found.append(Point(blocks, right, right, right))
    return sorted(found, key=lambda point: point.x)


if __name__ == "__main__":
    fetching()
