"""What stands before the routes: token, origin, lengths, rates; whatever is refused changes nothing."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.serve.limits import HEADERS, Rates
from pipeline.serve.security import SHORTEST, Token, is_loopback, is_named, token
from pipeline.serve.service import Service
from tests.serve.served import Server, fails, serve_settings, served
from tests.serve.small import Trained

SECRET = "a-secret-of-some-length"
FACT = {"head": "France", "relation": "capital", "tail": "Lyon"}
WRITES = [
    ("POST", "/facts", {"json": FACT}),
    ("DELETE", "/facts/WyJGcmFuY2UiLCJjYXBpdGFsIiwiUGFyaXMiXQ", {}),
    ("POST", "/facts/import", {"content": b"{}", "headers": {"Content-Type": "application/x-ndjson"}}),
    ("POST", "/snapshots", {"json": {"name": "mine"}}),
]


@pytest.fixture(autouse=True)
def _unchanged(calm: Server) -> Iterator[None]:
    memory = calm.service.memory
    before = memory.version, len(memory), memory.journal.size
    yield
    assert (memory.version, len(memory), memory.journal.size) == before
    assert not calm.service.settings.snapshots.exists()


@pytest.mark.parametrize(("method", "path", "given"), WRITES)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic TOKEN", "TOKEN", "bearer TOKENx"]
)
def test_nobody_writes_without_the_token(
    calm: Server, method: str, path: str, given: dict[str, Any], authorization: str | None
) -> None:
    told = authorization and authorization.replace("TOKEN", calm.token)
    headers = given.get("headers", {}) | {"Authorization": told}
    response = calm(method, path, **(given | {"headers": headers}))
    fails(response, 401, "bad_token")
    assert response.headers["www-authenticate"] == "Bearer"
    assert calm.token not in response.text


def test_reading_needs_no_token(calm: Server) -> None:
    for path in ("/facts", "/facts?query=x", "/entities?query=x", "/snapshots", "/facts/export"):
        assert calm("GET", path, headers={"Authorization": None}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200)]
    + [
        (host, 421)
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a:b")
    ],
)
def test_a_name_that_points_here_is_not_enough(calm: Server, host: str, status: int) -> None:
    assert calm("GET", "/facts", headers={"Host": host}).status_code == status


def test_a_server_may_have_names() -> None:
    known = frozenset(["memory.example"])
    assert is_named("Memory.example:8000", known)
    assert not is_named("memory.example:http", known)
    assert not is_named("memory.example.evil", known)
    assert is_named("10.0.0.7", known)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9"},
        {"Origin": "http://localhost@evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_write_nothing(calm: Server, headers: dict[str, str]) -> None:
    for method, path, given in WRITES:
        response = calm(method, path, **(given | {"headers": given.get("headers", {}) | headers}))
        fails(response, 403, "wrong_origin")
    response = calm("GET", "/facts", headers=headers)
    assert "access-control-allow-origin" not in response.headers


def test_the_page_of_this_server_may_write(server: Server) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    server.told("POST", "/facts", 201, json=FACT, headers=headers)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", b"{}"),
        ("application/x-www-form-urlencoded", b"a=b"),
        ("", b"{}"),
        ("application/xml", b"<a/>"),
    ],
)
def test_a_body_of_another_kind_is_refused(calm: Server, kind: str, body: bytes) -> None:
    for path in ("/facts", "/snapshots", "/facts/import", "/v1/chat/completions"):
        fails(calm("POST", path, content=body, headers={"Content-Type": kind}), 415, "wrong_type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"{" * 30000,
        b"[" * 60000,
        b"1" * 5000,
        b'{"head": NaN}',
        b"\x00",
    ],
)
def test_what_is_no_json_is_refused(calm: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/facts", "/snapshots"):
        response = calm("POST", path, content=body, headers=headers)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_is_bounded_however_it_comes(trained: Trained, tmp_path: Path) -> None:
    sizes = {"body_bytes": 1000, "import_bytes": 3000}
    with served(serve_settings(trained, tmp_path, **sizes)) as server:
        before = server.service.version
        for path, kind, longest in (
            ("/facts", "application/json", 1000),
            ("/facts/import", "application/x-ndjson", 3000),
        ):

            async def chunks(size: int = longest + 1) -> AsyncIterator[bytes]:
                for _ in range(size // 100 + 1):
                    yield b" " * 100

            headers = {"Content-Type": kind}
            for content in (b" " * (longest + 1), chunks()):
                response = server("POST", path, content=content, headers=headers)
                assert response.status_code == 413
                assert response.json()["error"]["message"] == f"a body has at most {longest} bytes"
            lengths = headers | {"Content-Length": "9" * 30}
            assert server("POST", path, content=b" ", headers=lengths).status_code == 413
            wrong = headers | {"Content-Length": "-1"}
            assert server("POST", path, content=b" ", headers=wrong).status_code == 400
        assert server.service.version == before


@pytest.mark.parametrize(
    "path",
    [
        "/facts/..", "/facts/%2e%2e", "/facts/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/facts/%00",
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/snapshots/..%2f..", "/entities/../../conf",
        "/entities/%00", "/entities/%ff%fe", "/facts//", "/facts/x%00/history", "//facts",
        "/facts/" + "a" * 1900, "/docs", "/redoc", "/.env", "/facts/%F0%9F", "/facts\\..",
        "/page/../../app.py", "/entities/" + "%2e%2e%2f" * 100,
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(calm: Server, path: str) -> None:
    status, body = asyncio.run(raw(calm, path))
    assert status in (404, 405), body
    assert b"error" in body


async def raw(server: Server, path: str) -> tuple[int, bytes]:
    """Ask for a path as it is, which clients would tidy up."""
    from urllib.parse import unquote

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
    }
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    await server.app(
        scope | {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}, receive, send
    )
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)


def test_overlong_addresses_are_refused(calm: Server) -> None:
    fails(calm("GET", "/facts/" + "a" * 5000), 414, "too_long")
    fails(calm("GET", "/facts?query=" + "a" * 9000), 414, "too_long")


def test_every_answer_carries_the_headers(calm: Server) -> None:
    for method, path in (("GET", "/facts"), ("GET", "/nowhere"), ("PUT", "/facts"), ("GET", "/facts?n=x")):
        response = calm(method, path)
        assert HEADERS.items() <= response.headers.items()
        assert "server" not in response.headers


def test_a_client_that_comes_too_often_waits(trained: Trained, tmp_path: Path) -> None:
    rates = {
        "writes_per_second": 0.01,
        "writes_at_once": 3,
        "questions_per_second": 0.01,
        "questions_at_once": 2,
    }
    with served(serve_settings(trained, tmp_path, **rates)) as server:
        for _ in range(3):
            fails(
                server("POST", "/facts", json=FACT, headers={"Authorization": "Bearer guess"}),
                401,
                "bad_token",
            )
        refused = server("POST", "/facts", json=FACT)
        fails(refused, 429, "too_many")
        assert 1 <= int(refused.headers["retry-after"]) <= 101
        for path in ("/facts?query=capital", "/facts/export"):
            server("GET", path)
        fails(server("GET", "/facts?%71uery=capital"), 429, "too_many")
        assert server("GET", "/facts").status_code == 200


def test_a_bucket_fills_with_time_and_few_clients_are_kept() -> None:
    now = [0.0]
    rates = Rates(2.0, 3, clients=2, clock=lambda: now[0])
    assert [rates.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.5
    assert rates.take("a") == 0
    assert rates.take("a") == 0.5
    now[0] = 1000.0
    assert [rates.take("a") for _ in range(4)] == [0, 0, 0, 0.5], "no more than a burst"
    for other in ("b", "c"):
        assert rates.take(other) == 0
    assert rates.take("a") == 0, "it was forgotten"


def test_sockets_that_stay_open_are_refused(calm: Server) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/facts", "headers": [], "query_string": b""}
    asyncio.run(calm.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_token_is_given_or_made_where_only_this_machine_comes(tmp_path: Path) -> None:
    place = tmp_path / "made" / "token"
    for _ in range(2):
        made = token("127.0.0.1", None, place, {})
        assert made.made == place
        assert place.stat().st_mode & 0o777 == 0o600
        text = place.read_text().strip()
        assert len(text) >= 40
        assert made.allows(f"Bearer {text}")
        assert not made.allows(text)
    assert token("::1", None, place, {"LIVING_MEMORY_TOKEN": SECRET}).allows(f"bearer {SECRET}")
    file = tmp_path / "given"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    given = token("0.0.0.0", file, place, {})
    assert given.allows(f"Bearer {SECRET}")
    assert given.made is None
    assert SECRET not in repr(given)
    for host in ("0.0.0.0", "::", "192.168.0.2", "memory.example", ""):
        assert not is_loopback(host)
        with pytest.raises(UserError, match=r"other machines can reach, so writing needs a token of yours"):
            token(host, None, place, {})
    with pytest.raises(UserError, match=rf"the token has 3 characters; it must have at least {SHORTEST}"):
        token("0.0.0.0", None, place, {"LIVING_MEMORY_TOKEN": "abc"})
    with pytest.raises(UserError, match=r"serve.token_file: .*missing can't be read"):
        token("0.0.0.0", tmp_path / "missing", place, {})
    with pytest.raises(UserError, match="printable ASCII without spaces"):
        Token.of("a token with spaces in it")


def test_a_token_that_others_can_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "given"
    file.write_text(SECRET)
    file.chmod(0o644)
    token("127.0.0.1", file, tmp_path / "made", {})
    assert "other users may read the token" in caplog.text
    assert SECRET not in caplog.text


def test_a_server_that_others_reach_does_not_start_without_a_token(trained: Trained, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LIVING_MEMORY_TOKEN", raising=False)
        with pytest.raises(UserError, match="writing needs a token of yours"):
            Service.open(serve_settings(trained, tmp_path, host="0.0.0.0"))
    assert os.listdir(tmp_path) == [], "it was refused before anything was written"  # noqa: PTH208


def test_the_token_is_in_no_log(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with served(serve_settings(trained, tmp_path)) as server:
        server.told("POST", "/facts", 201, json=FACT)
        server("POST", "/facts", json={"head": server.token}, headers={"X-Other": server.token})
        assert server.token not in caplog.text
        assert server.token not in repr(server.service.token)
        assert server.token not in server("GET", "/openapi.json").text
