"""Lets Optuna choose the jobs of a sweep: `hydra/sweeper=optuna`.

Hydra's own plugin is written for the Optuna of before 2022, whose distributions are gone since. This one
takes what that one takes in `params`: `interval(0, 1)`, `int(interval(1, 9))`, `tag(log, interval(…))`,
`range(…)`, `choice(…)`, or one value.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):  # type: ignore[misc]
    """Hydra's sweeper that asks Optuna's TPE which values come next.

    Args:
        direction: `maximize` or `minimize` what the jobs return.
        n_trials: jobs in all.
        n_jobs: jobs that are launched at once; each is chosen without the results of the others.
        seed: of the choices.
        params: what is searched, a text for each key; the command line adds to it.
    """

    def __init__(
        self, direction: str, n_trials: int, n_jobs: int, seed: int, params: Mapping[str, Any] | None
    ) -> None:
        self.direction, self.n_trials, self.n_jobs, self.seed = direction, n_trials, n_jobs, seed
        self.params = dict(params or {})
        self.launcher: Launcher | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what is needed, and make the launcher that is configured."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs; the best one's values go to optimization_results.yaml in the sweep's folder.

        Raises:
            Exception: what a job raised ends the sweep.
        """
        # Imported here because Hydra imports every plugin at every command.
        try:
            import optuna
        except ImportError:
            sys.exit(
                "error: hydra/sweeper=optuna needs Optuna, which isn't installed: pip install '.[optuna]'"
            )
        assert self.launcher is not None
        assert self.config is not None
        parser = OverridesParser.create()
        asked = parser.parse_overrides([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        space = {one.get_key_element(): distribution(one) for one in asked if one.is_sweep_override()}
        given = [one for one in asked if not one.is_sweep_override()]
        fixed = {one.get_key_element(): one.get_value_element_as_str() for one in given}
        space = {key: values for key, values in space.items() if key not in fixed}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed)
        study = optuna.create_study(direction=self.direction, sampler=sampler)
        for first in range(0, self.n_trials, self.n_jobs):
            trials = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - first))]
            jobs = [[f"{key}={value}" for key, value in (t.params | fixed).items()] for t in trials]
            self.validate_batch_is_legal(jobs)
            for trial, job in zip(trials, self._launched(jobs, first), strict=True):
                study.tell(trial, float(job.return_value))
        best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
        file = Path(str(self.config.hydra.sweep.dir)) / "optimization_results.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(best), file)

    def _launched(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[Any]:
        assert self.launcher is not None
        found: Sequence[Any] = self.launcher.launch(jobs, initial_job_idx=first)
        return found


def distribution(override: Override) -> Any:
    """Return Optuna's distribution of the values that an override asks for.

    Raises:
        ValueError: the override sweeps over something else.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if override.is_interval_sweep():
        assert isinstance(value, IntervalSweep)
        log, whole = "log" in value.tags, isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log=log)
    if override.is_range_sweep() and isinstance(value, RangeSweep) and not value.shuffle:
        return CategoricalDistribution([*value.range()])
    if override.is_choice_sweep() or override.is_range_sweep():
        return CategoricalDistribution([*override.sweep_iterator(transformer=Transformer.encode)])
    raise ValueError(f"{override.input_line}: Optuna takes interval, range, choice or a list of values")
