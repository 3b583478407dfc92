"""Copies of shards as actors of Ray: processes with names, which Ray starts again where they die."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.answering import Copy
from pipeline.cluster.local import folder_of
from pipeline.cluster.mending import Mending
from pipeline.cluster.messages import GoneError
from pipeline.cluster.shard import Shard
from pipeline.cluster.sharded import ShardedMemory
from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.settings import Memory
from pipeline.ray import cause, connected, ray_or_error

NAMESPACE = "living-memory"
FOLDER = Path("outputs/cluster")
"""Where a serving process keeps what it remembers of requests, below a folder of the memory's name."""
PREFIX = "cluster:"
PATIENCE = 60.0
"""Seconds after which a copy that doesn't answer counts as gone."""
THREADS = 8
"""Questions that a copy answers side by side."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a memory in shards is: `cluster:NAME` or `cluster:NAME@HOST:PORT`."""

    name: str
    ray: str
    """Address of the Ray cluster; `auto` for the one that this machine is part of."""

    @classmethod
    def parsed(cls, text: str) -> "Address | None":
        """Return the address that `text` is, None where it names a folder.

        Raises:
            UserError: it begins as an address and isn't one.
        """
        if not text.startswith(PREFIX):
            return None
        name, _, ray = text.removeprefix(PREFIX).partition("@")
        if not name or "/" in name:
            raise UserError(f"{text!r}: expected {PREFIX}NAME or {PREFIX}NAME@HOST:PORT")
        return cls(name, ray or "auto")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what a copy raised, and GoneError where it doesn't answer."""
    ray = ray_or_error()
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise cause(error) from None
    except (ray.exceptions.RayError, ValueError) as error:
        raise GoneError(f"{type(error).__name__}") from error


class Waiting:
    """What was asked of an actor."""

    def __init__(self, reference: Any, patience: float) -> None:
        self._reference = reference
        self._patience = patience

    def result(self) -> Any:
        """Return the answer, once it is there.

        Raises:
            GoneError: the actor died, or takes too long.
        """
        with plain_errors():
            return ray_or_error().get(self._reference, timeout=self._patience)


class Remote:
    """A copy that is an actor, found by its name.

    Args:
        name: of the actor.
        patience: seconds to wait for an answer.
    """

    def __init__(self, name: str, patience: float = PATIENCE) -> None:
        self.name = name
        self._patience = patience
        self._actor: Any = None

    def actor(self) -> Any:
        """Return the actor.

        Raises:
            GoneError: there is none of that name.
        """
        if self._actor is None:
            with plain_errors():
                self._actor = ray_or_error().get_actor(self.name, NAMESPACE)
        return self._actor

    def begin(self, what: str, *given: Any) -> Waiting:
        """Ask it for something."""
        method = getattr(self.actor(), what)
        with plain_errors():
            return Waiting(method.remote(*given), self._patience)

    def end(self) -> None:
        """Kill it; Ray starts it again, and it counts once it has caught up."""
        try:
            actor = self.actor()
            with plain_errors():
                ray_or_error().kill(actor, no_restart=False)
        except GoneError:
            self._actor = None


def name_of(name: str, shard: int, copy: int) -> str:
    """Return the name of an actor."""
    return f"{name}/{shard}/{copy}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is started."""

    name: str
    folder: Path
    """Of the memory on every machine; each copy has its own below it."""
    shards: int
    replication: int
    """Copies of each shard."""
    settings: Memory
    encoder: str
    """Name of the encoder that the vectors are from."""
    dimension: int
    sync: str


def start(plan: Plan) -> list[str]:
    """Start the actors of a memory that don't run; return their names.

    Copies of one shard are on different machines, where there are enough. A copy that Ray starts again comes
    back on its machine, where its folder is.
    """
    ray = ray_or_error()
    strategies = ray.util.scheduling_strategies
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    kind = ray.remote(Copy)
    given = plan.settings, plan.encoder, plan.dimension, plan.sync
    started = {}
    for shard in range(plan.shards):
        for copy in range(plan.replication):
            node = nodes[(shard + copy) % len(nodes)]
            name = name_of(plan.name, shard, copy)
            started[name] = kind.options(
                name=name,
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_concurrency=THREADS,
                num_cpus=0,
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote(folder_of(plan.folder, shard, copy), *given)
    for actor in started.values():
        with plain_errors():
            ray.get(actor.standing.remote(), timeout=PATIENCE)
    return list(started)


def running(name: str) -> dict[int, list[int]]:
    """Return the copies of each shard of a memory that have actors.

    Raises:
        UserError: there is no such memory.
    """
    found: dict[int, list[int]] = {}
    for one in ray_or_error().util.list_named_actors(all_namespaces=True):
        own, _, rest = one["name"].partition("/")
        if one["namespace"] == NAMESPACE and own == name:
            shard, copy = map(int, rest.split("/"))
            found[shard] = sorted([*found.get(shard, []), copy])
    if not found or sorted(found) != list(range(len(found))):
        raise UserError(
            f"no memory {name!r} runs on this Ray cluster: start it by `python -m pipeline.cluster start`"
        )
    return found


def stop(name: str) -> int:
    """End the actors of a memory for good; return how many. Their folders stay."""
    ray, ended = ray_or_error(), 0
    for shard, copies in running(name).items():
        for copy in copies:
            ray.kill(ray.get_actor(name_of(name, shard, copy), NAMESPACE), no_restart=True)
            ended += 1
    return ended


def opened(
    address: Address,
    settings: Memory,
    encoder: TextEncoder,
    write: bool = True,
    accept: bool = False,
    patience: float = PATIENCE,
) -> ShardedMemory:
    """Return the memory at an address.

    Args:
        address: of the memory.
        settings: sizes of the search; the layout must be the one that it was started with.
        encoder: of questions and new names, the one that its vectors are from.
        write: whether to change it; whoever had it open for writing no longer may.
        accept: whether to go on where copies are missing that may know of later changes.
        patience: seconds after which a copy that doesn't answer counts as gone.

    Raises:
        UserError: Ray isn't installed or can't be reached, or there is no such memory.
    """
    connected(address.ray)
    if write:
        (FOLDER / address.name).mkdir(parents=True, exist_ok=True)
    shards = [
        Shard(
            number,
            [Remote(name_of(address.name, number, copy), patience) for copy in sorted(copies)],
            write,
            accept,
        )
        for number, copies in sorted(running(address.name).items())
    ]
    memory = ShardedMemory(shards, settings, encoder, FOLDER / address.name)
    if write:
        Mending(shards)
    return memory
