"""Measures the server under load: `python -m pipeline.benchmark serving`.

A server's process is started on loopback. One client asks alone, then many at once, a share of whose requests
are updates; then the server is killed during such a load, again and again, and started anew. Every answer is
held against what was acknowledged before its question was sent, and after the load and after each kill every
slot against the last value that was acknowledged. Answers a second beside those of one at a time, the times
of updates and of first tokens as clients see them, and what was found wrong go to serving.json.
"""

import json
import logging
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.benchmarks.clients import SHOWN, Connection, Heard, Load, Process
from pipeline.benchmarks.processes import spread
from pipeline.benchmarks.truth import Truth
from pipeline.config import UserError, stage
from pipeline.evaluation.environment import overridden, provenance

SOON = 0.01
"""Seconds between two looks at whether an update was acknowledged."""
UNBOUNDED = 1_000_000
"""Requests of one address, which all clients here share, that no rate turns away."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How many clients do what, and for how long."""

    clients: int
    """Clients that ask at once, each its next question once it has the answer."""
    updates: float
    """Share of requests that are updates."""
    seconds: float
    """For which all clients go on."""
    alone: float
    """Seconds for which one client asks and updates alone, half of them before the load and half after."""
    kills: int
    """How often the server is killed during a load, each time after it has acknowledged an update."""
    before_kill: float
    """Seconds of load before each kill, at most; the kill comes at a time drawn from its second half."""
    ready: float
    """Seconds after which a server must be ready."""
    seed: int
    """Of what is asked and updated."""
    memory: Path | None
    """Folder of a memory, which is copied; null begins with the example facts."""
    adapter: Path | None
    """Folder of the adapter; null takes the one that the server takes by default."""
    server: list[str]
    """Further overrides of conf/serve, such as serve.batch=8."""
    folder: Path
    """Where the server's memory is kept; removed afterwards."""

    def __post_init__(self) -> None:
        for name, least in (("clients", 1), ("kills", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"serving.{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("seconds", "alone", "before_kill", "ready"):
            if getattr(self, name) <= 0:
                raise ValueError(f"serving.{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.updates < 1:
            raise ValueError(f"serving.updates must be from 0 to below 1, not {self.updates}")


@stage
def serving(serving: Serving, out: Path) -> None:
    """Start a server and measure."""
    told = provenance(overridden("python -m pipeline.benchmark serving"), [serving.seed])
    told["machine"]["load before"] = round(os.getloadavg()[0], 2)
    places = ("folder", "memory", "adapter")
    told["settings"] = {name: value for name, value in asdict(serving).items() if name not in places}
    folder = serving.folder / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        told["figures"] = Run(serving, folder).measured()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (out / "serving.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


class Run:
    """One server after the other on one memory.

    Args:
        settings: what is done.
        folder: where its memory is kept.
    """

    def __init__(self, settings: Serving, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._random = random.Random(settings.seed)
        memory = folder / "memory"
        if settings.memory is not None:
            shutil.copytree(settings.memory, memory)
        self._overrides = [f"serve.memory={memory}", f"serve.snapshots={folder / 'snapshots'}"]
        if settings.adapter is not None:
            self._overrides.append(f"serve.adapter={settings.adapter}")
        for name in ("questions_per_second", "questions_at_once", "writes_per_second", "writes_at_once"):
            self._overrides.append(f"serve.{name}={UNBOUNDED}")
        self._overrides += settings.server

    def measured(self) -> dict[str, Any]:
        """Return the figures."""
        settings = self._settings
        server, found = self._started()
        figures: dict[str, Any] = {"ready s": round(found, 2)}
        try:
            truth = self._truth(server)
            figures |= {"facts": len(_facts(server)), "slots that change": len(truth.changing)}
            alone = [self._loaded(server, truth, 1, settings.alone / 2, 1)]
            figures["resident MiB before"] = server.resident()
            many = self._loaded(server, truth, settings.clients, settings.seconds, 2)
            figures["resident MiB after"] = server.resident()
            alone.append(self._loaded(server, truth, 1, settings.alone / 2, 3))
            figures["one at a time"], figures["many at once"] = _told(*alone), _told(many)
            rates = [figures[name]["answers a second"] for name in ("many at once", "one at a time")]
            figures["times one at a time"] = round(rates[0] / rates[1], 2) if rates[1] else None
            figures["updates lost"] = truth.lost(_held(server, truth))
            figures["kills"], server = self._killed(server, truth)
            figures["exit status when stopped"] = server.stop()
        finally:
            server.kill()
        return figures

    def _started(self) -> tuple[Process, float]:
        server = Process(self._overrides, self._folder / "server.log")
        try:
            return server, server.ready(self._settings.ready)
        except BaseException:
            server.kill()
            raise

    def _truth(self, server: Process) -> Truth:
        truth = Truth.of(_facts(server))
        if not truth.changing:
            raise UserError("serving.memory: no relation has three values in slots of one; name another one")
        return truth

    def _loaded(
        self, server: Process, truth: Truth, clients: int, seconds: float, seed: int
    ) -> tuple[Heard, float]:
        load = Load(server.port, truth, clients, self._settings.updates, self._settings.seed + seed)
        time.sleep(seconds)
        return load.end()

    def _killed(self, server: Process, truth: Truth) -> tuple[dict[str, Any], Process]:
        """Kill the server during a load, again and again; return what was found, and the last server."""
        settings = self._settings
        lost: list[str] = []
        again, wrong, before = [], 0, truth.acknowledged
        for number in tqdm(range(settings.kills), desc="kills", unit="kill"):
            load = Load(server.port, truth, settings.clients, settings.updates, settings.seed + 10 + number)
            latest, first = time.monotonic() + settings.ready, truth.acknowledged
            time.sleep(settings.before_kill * self._random.uniform(0.5, 1))
            while settings.updates and truth.acknowledged == first and time.monotonic() < latest:
                time.sleep(SOON)  # else a slow machine would be killed with nothing to lose
            server.kill()
            heard, _ = load.end()
            wrong += heard.superseded
            server, seconds = self._started()
            again.append(seconds)
            lost += truth.lost(_held(server, truth))
        found = {
            "kills": settings.kills,
            "updates acknowledged": truth.acknowledged - before,
            "updates lost": lost,
            "answers from a superseded fact": wrong,
            "ready again s, most": round(max(again, default=0), 2),
        }
        return found, server


def _facts(server: Process) -> list[dict[str, Any]]:
    """Return all facts that hold, as the server lists them."""
    facts: list[dict[str, Any]] = []
    path = "/facts"
    with Connection(server.port) as connection:
        while path:
            status, body = connection.get(path)
            if status != 200:
                raise UserError(f"{path}: {status} {body[:200]!r}")
            page = json.loads(body)
            facts += page["facts"]
            path = f"/facts?cursor={page['next']}" if page["next"] is not None else ""
    return facts


def _held(server: Process, truth: Truth) -> dict[tuple[str, str], set[str]]:
    """Return what the slots that change hold."""
    held: dict[tuple[str, str], set[str]] = {slot.key: set() for slot in truth.changing}
    for fact in _facts(server):
        key = fact["head"]["key"], fact["relation"]["key"]
        if key in held:
            held[key].add(fact["tail"]["key"])
    return held


def _told(*parts: tuple[Heard, float]) -> dict[str, Any]:
    """Return the figures of what clients heard."""
    heard, seconds = Heard(), sum(took for _, took in parts)
    for part, _ in parts:
        heard.add(part)
    figures: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "answers": heard.answers,
        "answers a second": round(heard.answers / seconds, 2),
        "refused": heard.refused,
        "right": heard.right,
        "answers from a superseded fact": heard.superseded,
        "answers that say a superseded value": heard.said,
        "updates": len(heard.updates),
        "errors": sum(heard.errors.values()),
        "errors, for instance": [text for text, _ in heard.errors.most_common(SHOWN)],
    }
    named = {"updates": heard.updates, "first token": heard.first, "answer": heard.whole}
    for name, took in named.items():
        figures[f"{name}, as clients see it"] = spread([1000 * second for second in took]) if took else None
    return figures


if __name__ == "__main__":
    serving()
