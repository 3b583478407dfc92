"""Requests of all kinds, right and wrong: none gets a 5xx, a status that isn't described, or harm done."""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance

from tests.serve.served import Server, serve_settings, served
from tests.serve.small import Trained

REQUESTS = 10_000
"""Requests that have to be refused."""
EXAMPLES = int(os.environ.get("API_EXAMPLES", "20"))
"""Requests of each kind to each route."""


@schemathesis.serializer("application/x-ndjson")
def lines(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Send a text as it is."""
    return str(value).encode("utf-8", "surrogatepass")


@schemathesis.deserializer("application/x-ndjson")
def text(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """Compare lines as the text that the document says they are."""
    return response.content.decode()


@pytest.fixture(scope="module")
def named(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Under the name that schemathesis calls it by."""
    with served(serve_settings(trained, tmp_path_factory.mktemp("any"), names=["testserver"])) as found:
        yield found


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_document_says_what_the_server_does(named: Server, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_asgi("/openapi.json", named.app)
    asked = 0
    for found in document.get_all_operations():
        operation = found.ok()
        # Whether a name or a date can be is more than a document says, and an import tells of each line.
        excluded = [positive_data_acceptance]
        excluded += [negative_data_rejection] if operation.path == "/facts/import" else []

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def one(case: Case) -> None:
            nonlocal asked
            asked += 1
            given = {"Authorization": f"Bearer {named.token}"}
            case.call_and_validate(headers=given, excluded_checks=excluded)  # noqa: B023 - called at once

        try:
            one()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label
    assert asked > 5 * EXAMPLES


Wrong = tuple[str, str, dict[str, str], bytes]
"""Method, path with query, headers and body of a request that has to be refused."""

POSTS = ("/facts", "/snapshots", "/facts/import", "/v1/chat/completions")
SCRAPS = (
    "..",
    "%2e%2e",
    "%00",
    "\\",
    "'",
    '"',
    "<script>",
    "é",
    "%ff",
    "{",
    "}",
    "[",
    "null",
    "-1",
    "1e999",
    "%s%n",
)
SCRAPS += (
    "\u202e",
    "\x1b[2J",
    "${jndi:ldap://x}",
    "' OR 1=1--",
    "../../etc/passwd",
    "a" * 300,
    "٣",
    "NaN",
    "",
)
FIELDS = (
    "head",
    "relation",
    "tail",
    "start",
    "end",
    "source",
    "replace",
    "name",
    "model",
    "messages",
    "stream",
)


def scrap(draw: random.Random) -> str:
    return "".join(draw.choices(SCRAPS, k=draw.randint(1, 4)))


def junk(draw: random.Random, depth: int = 0) -> Any:
    """Return some value of JSON."""
    kind = draw.randrange(9 if depth < 3 else 6)
    if kind < 6:
        return [None, True, draw.randint(-(1 << 70), 1 << 70), draw.random(), scrap(draw), ""][kind]
    if kind == 6:
        return [junk(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    return {draw.choice([*FIELDS, scrap(draw)]): junk(draw, depth + 1) for _ in range(draw.randint(0, 4))}


def wrong(draw: random.Random, token: str) -> Wrong:
    """Return a request that has to be refused, of one of many kinds."""
    given = {"host": "localhost", "authorization": f"Bearer {token}", "content-type": "application/json"}
    path = draw.choice(POSTS[:2])
    kind = draw.randrange(8)
    if kind == 0:  # no token, whatever is sent
        given["authorization"] = draw.choice(
            ["", "Bearer", f"Bearer {token[:-1]}", f"Bearer {scrap(draw)}", token]
        )
        return "POST", draw.choice(POSTS[:3]), given, json.dumps(junk(draw)).encode()
    if kind == 1:  # no JSON
        return "POST", path, given, draw.randbytes(draw.randint(0, 200)) + b"{"
    if kind == 2:  # JSON with an unknown field
        body = {"head": "a", "relation": "b", "tail": "c", "name": "d", f"x{scrap(draw)}": junk(draw)}
        return "POST", path, given, json.dumps(body).encode()
    if kind == 3:  # a field of another type
        body = {"head": "a", "relation": "b", "tail": draw.choice([1, None, True, [], {}, 1.5]), "name": 7}
        return "POST", path, given, json.dumps(body).encode()
    if kind == 4:  # a path that isn't there
        return draw.choice(["GET", "DELETE"]), f"/facts/{scrap(draw)}x%00", given, b""
    if kind == 5:  # a query that can't be
        name = draw.choice(["n", "limit", "cursor", f"x{draw.randrange(99)}", "as_of"])
        return "GET", f"/facts?{name}=x{scrap(draw)}", given, b""
    if kind == 6:  # another kind of body
        given["content-type"] = draw.choice(
            ["text/plain", "", "application/xml", scrap(draw), "multipart/form-data"]
        )
        return "POST", draw.choice(POSTS), given, json.dumps(junk(draw)).encode()
    name, value = draw.choice(
        [("host", f"x{scrap(draw)}"), ("origin", scrap(draw)), ("sec-fetch-site", "cross-site")]
    )
    return "POST", draw.choice(POSTS), given | {name: value}, b"{}"


async def answered(server: Server, request: Wrong) -> tuple[int, bytes]:
    """Return status and body; the request is sent as it is, which no client would do."""
    method, address, given, body = request
    path, _, query = address.partition("?")
    left, sent = [body[:50], body[50:]], []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method}
    headers = [(name.encode(), value.encode("utf-8", "replace")) for name, value in given.items()]
    scope |= {"scheme": "http", "query_string": query.encode(), "root_path": "", "headers": headers}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "client": ("127.0.0.1", 1)}
    await server.app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_what_has_to_be_refused_is_and_changes_nothing(calm: Server) -> None:
    draw, memory = random.Random(0), calm.service.memory
    before = memory.version, memory.journal.size, len(memory), len(memory.entities)
    files = sorted(calm.service.settings.memory.parent.rglob("*"))

    async def all_of_them() -> Counter[int]:
        seen: Counter[int] = Counter()
        for _ in range(REQUESTS):
            request = wrong(draw, calm.token)
            status, body = await answered(calm, request)
            assert 400 <= status < 500, (request, status, body)
            assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}, request
            assert calm.token.encode() not in body
            seen[status] += 1
        return seen

    seen = asyncio.run(all_of_them())
    assert seen.keys() >= {400, 401, 403, 404, 415, 421}
    assert (memory.version, memory.journal.size, len(memory), len(memory.entities)) == before
    assert sorted(calm.service.settings.memory.parent.rglob("*")) == files
