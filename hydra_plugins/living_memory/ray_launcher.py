"""Runs the jobs of a sweep on a Ray cluster: `hydra/launcher=ray` (the extra `cluster`).

Hydra's own plugin for Ray wants a cloudpickle of before 2023 and Ray's dashboard; this one needs Ray alone.
What it does with a job is what Hydra's launcher for Joblib does.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class RayLauncher(Launcher):  # type: ignore[misc]
    """Hydra's launcher that makes each job of a sweep a task of Ray.

    Args:
        address: of a running cluster, such as `auto`; null makes one on this machine for the sweep.
        cpus: cores that each job takes.
        gpus: GPUs that each job takes; Ray shows a job no others.
        retries: times that a job is begun anew after its worker was lost.
        local_cpus: cores of the cluster that is made where `address` is null; null is all of the machine's.
    """

    def __init__(
        self, address: str | None, cpus: float, gpus: float, retries: int, local_cpus: int | None
    ) -> None:
        self.address = address
        self.resources = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": retries}
        self.local_cpus = local_cpus
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides, and return what they returned in their order."""
        # Imported here because Hydra imports every plugin at every command.
        from pipeline.config import UserError
        from pipeline.ray import ray_or_error

        try:
            ray = ray_or_error()
        except UserError as error:
            sys.exit(f"error: {error}")  # of anything else Hydra shows a trace
        assert self.config is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        made = not ray.is_initialized()
        if made:
            local = {} if self.address else {"num_cpus": self.local_cpus, "include_dashboard": False}
            ray.init(address=self.address or "local", log_to_driver=True, **local)
        try:
            task = ray.remote(**self.resources)(run_one)
            shared = ray.put((self.hydra_context, self.task_function, self.config, Singleton.get_state()))
            jobs = [
                task.remote(shared, list(overrides), initial_job_idx + place, str(Path.cwd()))
                for place, overrides in enumerate(job_overrides)
            ]
            ray.wait(jobs, num_returns=len(jobs))  # one that gives up ends none of the others
            found: list[JobReturn] = ray.get(jobs)
            return found
        finally:
            if made:
                ray.shutdown()


def run_one(shared: tuple[Any, ...], overrides: list[str], number: int, folder: str) -> JobReturn:
    """Run one job in a worker, in the folder that the sweep was started in, which all hosts must share.

    Raises:
        RuntimeError: the job gave up with a message; to end by itself would take the worker for lost.
    """
    hydra_context, task_function, config, singletons = shared
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(singletons)
    job = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    try:
        return run_job(
            hydra_context=hydra_context,
            config=job,
            task_function=task_function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except SystemExit as error:
        raise RuntimeError(str(error.code)) from error
