"""A server on tiny models, called in this process, through everything that stands before its routes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from fastapi import FastAPI

from pipeline.config import CONF, section
from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serve
from tests.serve.small import Trained

HOST = "http://localhost"
MANY = {"writes_per_second": 1e6, "writes_at_once": 1 << 30, "questions_per_second": 1e6}


def serve_settings(trained: Trained, folder: Path, **changes: Any) -> Serve:
    """Return the section `serve` for a memory in `folder` that begins with the facts of `trained`."""
    values = yaml.safe_load((CONF / "serve" / "default.yaml").read_text(encoding="utf-8"))
    values |= {"adapter": str(trained.adapter), "facts": str(trained.facts), "memory": str(folder / "memory")}
    values |= {"snapshots": str(folder / "snapshots")} | MANY | changes
    found: Serve = section(Serve, values, "serve")
    return found


@dataclass
class Server:
    """A server's parts, and requests to it that carry its token unless they say otherwise."""

    service: Service
    app: FastAPI
    token: str

    def __call__(self, method: str, path: str, **given: Any) -> httpx.Response:
        return asyncio.run(self.ask(method, path, **given))

    async def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | given.pop("headers", {})
        headers = {name: value for name, value in headers.items() if value is not None}
        async with self.client() as client:
            return await client.request(method, path, headers=headers, **given)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=HOST)

    def told(self, method: str, path: str, status: int = 200, **given: Any) -> Any:
        """Return the JSON of a response that must have the status."""
        response = self(method, path, **given)
        assert response.status_code == status, response.text
        return response.json()


@contextmanager
def served(settings: Serve, token: str = "") -> Iterator[Server]:
    service = Service.open(settings)
    try:
        made = service.token.made
        text = token or (made.read_text(encoding="utf-8").strip() if made else "")
        yield Server(service, create_app(service), text)
    finally:
        service.close()


def fails(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error of a response that has to be refused so, in the one form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code, body
    found: dict[str, Any] = body["error"]
    return found
