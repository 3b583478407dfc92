"""Where a run's numbers go while it runs: Weights & Biases, and a plain table of its curve.

Runs compare at a glance because all of them name things alike: the configuration by `section.key`, the
summary by the keys of `reports/metrics.json`, the group by the sweep and the run by what it overrides.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.config import UserError
from pipeline.place import first

MODES = ("disabled", "offline", "online")


@dataclass(frozen=True, kw_only=True)
class Logger:
    """Whether and where Weights & Biases keeps a run. No result depends on it, so no stage tracks it."""

    mode: str
    """`disabled`, `offline` (files that `wandb sync` takes) or `online`."""
    project: str
    """Project that the runs belong to."""
    entity: str | None
    """Account or team that owns the project; null is the account that is logged in."""
    group: str | None
    """Runs that belong together; null is the folder that holds the run's own: one group a sweep."""
    dir: Path
    """Folder in which `wandb/` is made."""

    def __post_init__(self) -> None:
        """Check the mode."""
        if self.mode not in MODES:
            raise ValueError(f"logger.mode must be one of {', '.join(MODES)}, not {self.mode}")


@dataclass(frozen=True)
class Run:
    """One run that is being tracked, or not: then both members do nothing."""

    loggers: list[Any] = field(default_factory=list)
    """What `lightning.Trainer(logger=…)` takes; empty if the mode is `disabled`."""
    handle: Any = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to the curves, outside a Lightning loop."""
        if self.handle is not None:
            self.handle.log(dict(values), step=step)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Set the run's results, under the keys of the report; nested keys are joined by dots."""
        if self.handle is not None:
            self.handle.summary.update(dict(_flat(values)))


@contextmanager
def run(logger: Logger, out: Path, config: Mapping[str, object]) -> Iterator[Run]:
    """Track what happens inside the `with` block; of several processes, in the first one.

    Args:
        logger: whether and where.
        out: the stage's output folder. Its name is the run's name (the overrides, in a sweep) and its
            parent's name the group.
        config: the stage's arguments by section: dataclasses or plain values.

    Raises:
        UserError: Weights & Biases refuses the run, for want of an account for instance.
    """
    if logger.mode == "disabled" or not first():
        yield Run()
        return
    # Imported here because a run that isn't tracked should not pay the second that it takes.
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger.dir.mkdir(parents=True, exist_ok=True)
    try:
        handle = wandb.init(
            mode="offline" if logger.mode == "offline" else "online",
            project=logger.project,
            entity=logger.entity,
            group=logger.group or out.absolute().parent.name,
            name=run_name(out),
            dir=str(logger.dir),
            config={name: _plain(values) for name, values in config.items()},
            # A sweep's jobs share one process: each must be a run of its own.
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise UserError(
            f"logger=online: Weights & Biases refused the run ({error}); run `wandb login`, set "
            "WANDB_API_KEY, or choose logger=offline and send the run later with `wandb sync`"
        ) from error
    try:
        yield Run([WandbLogger(experiment=handle)], handle)
    except BaseException:
        wandb.finish(exit_code=1)
        raise
    finally:
        wandb.finish()


def run_name(out: Path) -> str:
    """Return the name of the run that writes `out`; DVC's name of a queued experiment comes first."""
    experiment = os.environ.get("DVC_EXP_NAME")
    return f"{experiment} {out.name}" if experiment else out.name


def _plain(values: object) -> object:
    """Return `values` with dataclasses as mappings and paths as text."""
    if is_dataclass(values) and not isinstance(values, type):
        return _plain(asdict(values))
    if isinstance(values, Mapping):
        return {str(name): _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return str(values) if isinstance(values, Path) else values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class Curve:
    """A CSV file of what a training loop measured, one row a step, written through at once.

    Of several processes that train together, the first one writes.

    Args:
        path: the file.
        columns: names of the columns, the step first.
        start: the step at which the loop starts; rows of an earlier attempt from there on are dropped, so
            that a resumed run leaves the curve that an unbroken one would have left.

    Raises:
        ValueError: the file holds other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: int = 0) -> None:
        self.path = path
        self.columns = list(columns)
        kept: list[list[str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file)) or [self.columns]
            if header != self.columns:
                raise ValueError(f"{path}: holds the columns {header}, not {self.columns}")
            # A killed run can leave its last row half written.
            kept = [row for row in rows if len(row) == len(header) and int(row[0]) < start]
        if not first():
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([self.columns, *kept])

    def append(self, **values: float) -> None:
        """Add one row.

        Raises:
            ValueError: `values` are not exactly the columns; the text names those missing and unknown.
        """
        missing = [name for name in self.columns if name not in values]
        unknown = [name for name in values if name not in self.columns]
        if missing or unknown:
            raise ValueError(f"{self.path}: columns missing: {missing}, unknown: {unknown}")
        if not first():
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([f"{values[name]:.6g}" for name in self.columns])
