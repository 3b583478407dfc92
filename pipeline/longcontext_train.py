"""Stage `longcontext_train`: DSRAM's retriever, and the bases that its cache projects on.

Texts are read once; what layers kept of them serves the bases, a supervised warm start, the hybrid loss and
PPO. Writes retriever.safetensors, warm.safetensors (the ablation without PPO), bases.safetensors and
training.json: the curves, and what the policy fetches beside its warm start.
"""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.config import stage
from pipeline.evaluation.fetching import compared, read_once, saved, ways
from pipeline.longcontext.answering import Answers
from pipeline.longcontext.lessons import TRAIN
from pipeline.longcontext.running import Runner
from pipeline.longcontext.schooling import bases_of, schooled, steps
from pipeline.longcontext.settings import LongContext
from pipeline.longcontext.training import Row
from pipeline.memory.disk import write_whole
from pipeline.tracking import Logger, run
from pipeline.trainer import Trainer
from pipeline.weights import LanguageModel, load_language_model


@stage
def longcontext_train(
    longcontext: LongContext, lm: LanguageModel, trainer: Trainer, logger: Logger, seed: int, out: Path
) -> None:
    """Record, calibrate, train and compare.

    Raises:
        UserError: files that the lessons are made of are missing.
    """
    training = longcontext.training
    model, tokenizer = load_language_model(lm, trainer.device)
    runner = Runner(model, training.teaching.chunk)
    with run(logger, out, {"longcontext": longcontext, "lm": lm, "seed": seed}) as tracked:
        answers = read_once(runner, tokenizer, longcontext, seed)
        bases_of(answers[TRAIN].recorded.texts).save(out / "bases.safetensors")
        with tqdm(total=steps(training) + training.ppo.rounds, desc="retriever") as bar:

            def tell(phase: str, row: Row) -> None:
                bar.update()
                bar.set_postfix_str(phase + "".join(f", {name} {value:.3g}" for name, value in row.items()))
                tracked.log({f"{phase}.{name}": value for name, value in row.items()}, step=int(bar.n))

            found = schooled(runner, answers[TRAIN], training, seed, tell)
        found.ppo.save(out / "retriever.safetensors")
        found.warm.save(out / "warm.safetensors")
        told: dict[str, Any] = {"curves": found.curves, "questions": _counted(answers)}
        with tqdm(total=len(ways(training)), desc="beside the warm start") as bar:
            figures, policy, warm = compared(found, answers, training, bar.update)
        told |= figures | saved([policy], [warm], training.bootstrap_samples, seed)
        tracked.summarize(told["saved"])
    write_whole(out / "training.json", json.dumps(told, indent=1).encode() + b"\n")


def _counted(answers: dict[str, Answers]) -> dict[str, dict[str, int]]:
    """Return the questions of each fold and kind."""
    kinds = {fold: one.recorded.lessons.kinds for fold, one in answers.items()}
    return {fold: {kind: own.count(kind) for kind in sorted(set(own))} for fold, own in kinds.items()}


if __name__ == "__main__":
    longcontext_train()
