"""The one way to Ray: imported where a cluster is asked for, and nowhere else."""

import socket
from typing import Any

from pipeline.config import UserError

LOCAL = "local"
"""Address of a cluster that is started in this process and ends with it."""
AUTO = "auto"
"""Address of the cluster that this machine is part of."""
PATIENCE = 5.0
"""Seconds in which a cluster's head takes a connection; Ray itself would try for minutes."""
STORE = 200 << 20
"""Bytes of such a cluster's object store."""


def ray_or_error() -> Any:
    """Return the module `ray`.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UserError("a cluster needs Ray, which isn't installed: pip install '.[cluster]'") from error
    return ray


def cause(error: Any) -> Exception:
    """Return what a task or an actor raised, out of the `RayTaskError` that tells of it."""
    found: Exception = error.cause if isinstance(error.cause, Exception) else error
    return found


def connected(address: str, cpus: int | None = None) -> Any:
    """Return `ray`, connected to a cluster; one that is connected already stays as it is.

    Args:
        address: `HOST:PORT` of its head, `auto` for that of this machine, or `local` for a new one here.
        cpus: processors that a new one has; all of this machine by default.

    Raises:
        UserError: Ray isn't installed, or there is no such cluster.
    """
    ray = ray_or_error()
    if ray.is_initialized():
        return ray
    if address not in (LOCAL, AUTO):
        _check(address)
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, num_cpus=cpus, object_store_memory=STORE, **quiet)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _nowhere(address, error) from error
    return ray


def _check(address: str) -> None:
    """Raise a UserError where nothing answers at `HOST:PORT`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _nowhere(address, error) from error


def _nowhere(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}); start one by `ray start --head`, "
        f"or name another address"
    )
