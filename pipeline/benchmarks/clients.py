"""Clients of a running server: they ask and update over real connections, and check what they are told."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from pipeline.benchmarks.truth import Changing, Truth
from pipeline.config import ROOT, UserError

TOKEN = "a-token-for-the-benchmark-only"
LATE = 60.0
"""Seconds after which a response doesn't come any more."""
SHOWN = 3
"""Errors that are told in full."""


class Process:
    """A server's process, that listens on loopback.

    Args:
        overrides: of conf/serve.
        log: file that its log goes to.
    """

    def __init__(self, overrides: Sequence[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._log = log
        words = ["-m", "pipeline.serve", f"serve.port={self.port}", *overrides, f"hydra.run.dir={log.parent}"]
        environment = os.environ | {"LIVING_MEMORY_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *words], stdout=stream, stderr=stream, env=environment
            )

    def ready(self, seconds: float) -> float:
        """Wait until it is ready; return after how many seconds it was.

        Raises:
            UserError: it has ended, or isn't after `seconds`.
        """
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds and self._process.poll() is None:
            try:
                with Connection(self.port) as connection:
                    if connection.get("/readyz")[0] == 200:
                        return took
            except OSError:
                pass
            time.sleep(0.05)
        end = self._log.read_text(encoding="utf-8")[-500:]
        raise UserError(f"the server isn't ready after {took:.0f} s; its log ends with: {end}")

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Let it end what it does; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(LATE)

    def resident(self) -> float:
        """Return MiB of it in main memory."""
        told = Path(f"/proc/{self._process.pid}/status").read_text()
        [line] = [line for line in told.splitlines() if line.startswith("VmRSS")]
        return round(int(line.split()[1]) / 1024, 1)


class Connection:
    """One connection to a server, kept from request to request."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=LATE)
        self._http.connect()
        assert self._http.sock is not None
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a resource."""
        self._http.request("GET", path)
        response = self._http.getresponse()
        return response.status, response.read()

    def post(self, path: str, fields: dict[str, Any]) -> http.client.HTTPResponse:
        """Return the response to a request with these fields, whose body is to be read."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        self._http.request("POST", path, json.dumps(fields).encode(), headers)
        return self._http.getresponse()


@dataclass
class Heard:
    """What a client measured and saw; times in seconds."""

    answers: int = 0
    refused: int = 0
    right: int = 0
    """Answers that are the value that may be seen."""
    superseded: int = 0
    """Answers that were read from a fact which had been superseded before they were asked for."""
    said: int = 0
    """Answers whose text is such a value, whatever they were read from."""
    updates: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """From a question to its first token."""
    whole: list[float] = field(default_factory=list)
    """From a question to the end of its answer."""
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Heard") -> None:
        """Take in what another client heard."""
        for name in ("answers", "refused", "right", "superseded", "said"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("updates", "first", "whole"):
            getattr(self, name).extend(getattr(other, name))
        self.errors.update(other.errors)


class Client(Thread):
    """Asks, and now and then changes a slot of its own before it asks for that.

    Args:
        port: of the server.
        truth: what all clients have told it.
        own: the slots that no other client changes.
        share: of requests that are updates.
        seed: of what it draws.
        stop: when set, it ends after the request that it is at.
    """

    def __init__(
        self, port: int, truth: Truth, own: Sequence[Changing], share: float, seed: int, stop: Event
    ) -> None:
        super().__init__(daemon=True)
        self.heard = Heard()
        self._port, self._truth, self._own, self._share = port, truth, own, share
        self._random, self._stop_set = random.Random(seed), stop

    def run(self) -> None:
        """Ask and update until it is to stop, or the connection breaks."""
        try:
            with Connection(self._port) as connection:
                while not self._stop_set.is_set():
                    asked = self._random.choice(self._truth.changing)
                    if self._own and self._random.random() < self._share:
                        asked = self._random.choice(self._own)
                        self._update(connection, asked)
                    else:
                        self._ask(connection, asked)
        except (OSError, http.client.HTTPException) as error:
            self.heard.errors[f"connection: {type(error).__name__}"] += 1

    def _update(self, connection: Connection, slot: Changing) -> None:
        now = self._truth.value(slot.key)
        tail = self._random.choice([tail for tail in slot.tails if tail != now])
        update = self._truth.begin(slot.key, tail)
        began = time.perf_counter()
        fields = {"head": slot.key[0], "relation": slot.key[1], "tail": tail}
        response = connection.post("/facts", fields)
        body = response.read()
        took = time.perf_counter() - began
        if response.status in (200, 201):
            update.acknowledged = time.perf_counter()
            self.heard.updates.append(took)
        else:
            self.heard.errors[f"update: {response.status} {body[:200]!r}"] += 1

    def _ask(self, connection: Connection, slot: Changing) -> None:
        fields = {
            "model": "living-memory",
            "messages": [{"role": "user", "content": slot.question}],
            "stream": True,
        }
        sent = time.perf_counter()
        response = connection.post("/v1/chat/completions", fields)
        if response.status != 200:
            self.heard.errors[f"question: {response.status} {response.read()[:200]!r}"] += 1
            return
        text, first = "", 0.0
        knowledge: dict[str, Any] = {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                self.heard.errors[f"question: {chunk['error']['message'][:200]}"] += 1
                response.read()
                return
            delta = chunk["choices"][0]["delta"]
            if delta.get("content"):
                first = first or time.perf_counter() - sent
                text += delta["content"]
            knowledge = chunk.get("knowledge", knowledge)
        answered = time.perf_counter()
        self.heard.first.append(first or answered - sent)
        self.heard.whole.append(answered - sent)
        self._check(slot, text, knowledge, sent, answered)

    def _check(
        self, slot: Changing, text: str, knowledge: dict[str, Any], sent: float, answered: float
    ) -> None:
        heard, truth = self.heard, self._truth
        heard.answers += 1
        if knowledge["refused"]:
            heard.refused += 1
            return
        read = [(f["head"]["key"], f["relation"]["key"], f["tail"]["key"]) for f in knowledge["facts"]]
        old = [tail in truth.superseded((head, name), sent, answered) for head, name, tail in read]
        heard.superseded += any(old)
        labels = truth.labels
        heard.right += text in {labels[tail] for tail in truth.allowed(slot.key, sent, answered)}
        heard.said += text in {labels[tail] for tail in truth.superseded(slot.key, sent, answered)}


class Load:
    """Clients that ask and update until it is told to stop.

    Args:
        port: of the server.
        truth: what they tell it.
        clients: how many.
        share: of requests that are updates.
        seed: of what they draw.
    """

    def __init__(self, port: int, truth: Truth, clients: int, share: float, seed: int) -> None:
        self._stop = Event()
        self._clients = [
            Client(port, truth, truth.changing[number::clients], share, seed * clients + number, self._stop)
            for number in range(clients)
        ]
        self._began = time.perf_counter()
        for client in self._clients:
            client.start()

    def end(self) -> tuple[Heard, float]:
        """Stop; return what all clients heard, and for how many seconds they went on."""
        self._stop.set()
        for client in self._clients:
            client.join()
        seconds, heard = time.perf_counter() - self._began, Heard()
        for client in self._clients:
            heard.add(client.heard)
        return heard, seconds
