"""Measures long contexts: `python -m pipeline.benchmark longcontext longtasks=h100 longcontext=h100`.

The same tasks as the stage `longcontext_evaluate`, with what they were measured on, and a figure. What is
found goes to longcontext.json after each row, so that a run that is cut short keeps what it has.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import Paths, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.longtasks import everything
from pipeline.evaluation.reading import Figures
from pipeline.longcontext.opening import Contexts
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import LongContext
from pipeline.longcontext.tasks import LongTasks
from pipeline.memory.disk import write_whole
from pipeline.reporting.figures import Panel, Point, panels, save_png
from pipeline.trainer import Trainer
from pipeline.weights import LanguageModel, load_language_model

BOUNDS = ("mean", "low", "high")


@stage
def longcontext(
    longcontext: LongContext,
    longtasks: LongTasks,
    lm: LanguageModel,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Run every task that `longtasks` names.

    Raises:
        UserError: a task's files are missing, or nothing was trained.
    """
    about = provenance(overridden("python -m pipeline.benchmark longcontext"), [seed])
    about |= {"settings": {"longcontext": asdict(longcontext), "longtasks": asdict(longtasks), "lm": lm.name}}

    def tell(told: Figures) -> None:
        write_whole(out / "longcontext.json", json.dumps(about | told, indent=1).encode() + b"\n")

    model, tokenizer = load_language_model(lm, trainer.device)
    runner = Runner(model, longtasks.chunk)
    contexts = Contexts(runner, longcontext, longtasks.baselines, paths.adapters / "longcontext")
    told = everything(runner, tokenizer, contexts, longtasks, seed, tell)
    drawn = [panel for filler in told["passkey"] for panel in over_lengths(told["passkey"][filler], filler)]
    if drawn:
        save_png(panels(drawn), out / "longcontext.png")


def over_lengths(rows: dict[str, dict[str, Figures]], filler: str) -> list[Panel]:
    """Return what of one filler is found, how long a step takes and what is held, over the length.

    Args:
        rows: by length, then by context.
        filler: its name.
    """

    def series(name: str, times: float) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for length, of_length in rows.items():
            for entry, row in of_length.items():
                if row.get(name) is not None:
                    found.setdefault(entry, []).append(_point(int(length), row[name], times))
        return found

    return [
        Panel(f"{filler}: pass keys found", series("em", 100), "tokens", "%", "x"),
        Panel(f"{filler}: time of a step", series("ms a token", 1), "tokens", "ms", "xy"),
        Panel(f"{filler}: held on the device", series("device bytes a text", 2**-20), "tokens", "MiB", "xy"),
    ]


def _point(length: int, value: Any, times: float) -> Point:
    """Return a figure with its interval, or a number as one without."""
    bounds = value if isinstance(value, dict) else dict.fromkeys(BOUNDS, value)
    return Point(length, *(times * bounds[key] for key in BOUNDS))


if __name__ == "__main__":
    longcontext()
