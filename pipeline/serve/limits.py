"""What is looked at before a request reaches a route: where it comes from, who sends it, how long it is."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.refusals import Refusal
from pipeline.serve.security import Token, is_named
from pipeline.serve.settings import Serve

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
OPEN = ("/v1/chat/completions",)
"""Paths that may be posted to without a token: they change nothing either."""
LINES = {"/facts/import": "application/x-ndjson"}
"""Paths whose body is no JSON object, with the type that it is of."""
PATH, QUERY = 2048, 8192
"""Bytes of a path and of a query string at most."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Of every response that doesn't say otherwise itself."""


class Rates:
    """How often each client may come: a bucket that fills by `rate` a second up to `burst`.

    Args:
        rate: requests a second in the long run.
        burst: requests at once.
        clients: how many are kept in mind; those that came longest ago are forgotten first.
        clock: tells seconds.
    """

    def __init__(
        self, rate: float, burst: int, clients: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clients = clients
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Count a request of a client; return the seconds that it has to wait instead, 0 where it hasn't."""
        now = self._clock()
        left, since = self._held.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        wait = max(0.0, (1 - left) / self._rate)
        self._held[client] = (left if wait else left - 1, now)
        if len(self._held) > self._clients:
            self._held.popitem(last=False)
        return wait


class Guard:
    """Refuses what no route shall see, and puts headers on every response.

    Args:
        app: what comes behind.
        token: lets a client write.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, token: Token, settings: Serve) -> None:
        self._app = app
        self._token = token
        self._settings = settings
        self._names = frozenset(name.casefold() for name in settings.names)
        self._writes = Rates(settings.writes_per_second, settings.writes_at_once, settings.clients)
        self._questions = Rates(settings.questions_per_second, settings.questions_at_once, settings.clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            longest = self._checked(scope)
        except Refusal as refusal:
            await refusal.response()(scope, receive, answer)
            return
        await self._app(scope, _bounded(receive, longest), answer)

    def _checked(self, scope: Scope) -> int:
        """Return the bytes that the body of a request may have.

        Raises:
            Refusal: the request is not to be let through.
        """
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or scope["path"].encode()) > PATH or len(scope["query_string"]) > QUERY:
            raise Refusal(414, f"a path has at most {PATH} bytes and a query {QUERY}", code="too_long")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_named(hosts[0], self._names):
            raise Refusal(
                421,
                "the Host header names another server; use localhost or an address, or list the name in "
                "serve.names",
                "host",
                "wrong_host",
            )
        path, method = scope["path"], scope["method"]
        if method in SAFE:
            if _is_asking(path, scope["query_string"]):
                _wait(self._questions, scope)
            return self._settings.body_bytes
        _same_origin(headers, hosts[0])
        if path in OPEN:
            _wait(self._questions, scope)
        else:
            _wait(self._writes, scope)
            if not self._token.allows(headers.get("authorization")):
                raise Refusal(
                    401,
                    "writing needs the header `Authorization: Bearer TOKEN` with the server's token",
                    "authorization",
                    "bad_token",
                    {"WWW-Authenticate": "Bearer"},
                )
        longest = self._settings.import_bytes if path in LINES else self._settings.body_bytes
        _right_kind(headers, method, path)
        _short_enough(headers.getlist("content-length"), longest)
        return longest


def _wait(rates: Rates, scope: Scope) -> None:
    client = scope.get("client")
    if wait := rates.take(client[0] if client else ""):
        seconds = str(int(wait) + 1)
        raise Refusal(
            429, "too many requests of this client", code="too_many", headers={"Retry-After": seconds}
        )


def _is_asking(path: str, query: bytes) -> bool:
    """Return whether a request that only reads costs as much as a question."""
    if path == "/facts/export":
        return True
    return path == "/facts" and any(name == "query" for name, _ in parse_qsl(query.decode("latin-1")))


def _same_origin(headers: Headers, host: str) -> None:
    """Refuse what a page of another origin makes a browser send."""
    origin = headers.get("origin")
    strange = origin is not None and urlsplit(origin).netloc.casefold() != host.casefold()
    if strange or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refusal(
            403, "the request comes from a page of another origin, which may read and write nothing here",
            "origin", "wrong_origin",
        )  # fmt: skip


def _right_kind(headers: Headers, method: str, path: str) -> None:
    if method == "DELETE":
        return
    wanted = LINES.get(path, "application/json")
    kind = headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != wanted:
        raise Refusal(415, f"the body must be of the content type {wanted}", "content-type", "wrong_type")


def _short_enough(lengths: Iterable[str], longest: int) -> None:
    for length in lengths:
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "Content-Length is no number", "content-length", "invalid_value")
        if len(length) > 18 or int(length) > longest:
            raise too_long(longest)


def too_long(longest: int) -> Refusal:
    """Return the refusal of a body with more than `longest` bytes."""
    return Refusal(413, f"a body has at most {longest} bytes", code="too_long")


class _TooLongError(HTTPException):
    """A body turns out to be too long while a route reads it; FastAPI lets an HTTPException through."""

    def __init__(self, longest: int) -> None:
        super().__init__(413, f"a body has at most {longest} bytes")


def _bounded(receive: Receive, longest: int) -> Receive:
    """Return `receive` for a body of at most `longest` bytes, however it comes."""
    left = longest

    async def take() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLongError(longest)
        return message

    return take
