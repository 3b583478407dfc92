"""The page: its files, all from this server, under a policy that lets it load and run nothing else."""

import os
from hashlib import sha256
from pathlib import Path

import psutil
from fastapi import APIRouter, Request, Response
from pydantic import Field

from pipeline.serve.refusals import Refusal, responses
from pipeline.serve.service import Service
from pipeline.serve.shown import Shown

FOLDER = Path(__file__).parent / "web"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types of the files that are served, by ending."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""No inline script or style, nothing from elsewhere, and no text that is made into HTML by mistake."""


class Status(Shown):
    """What the server holds and does right now."""

    facts: int = Field(description="Facts that the memory holds.", examples=[42])
    version: int = Field(description="Grows with every acknowledged change.", examples=[17])
    resident_bytes: int = Field(description="Main memory that the process takes.", examples=[734003200])
    running: int = Field(description="Questions that are being answered.", examples=[1])
    waiting: int = Field(description="Questions that wait for a place.", examples=[0])


class Page:
    """A file of the page, and what tells whether a browser has it already."""

    def __init__(self, file: Path) -> None:
        self._content = file.read_bytes()
        self._headers = {
            "Content-Type": KINDS[file.suffix],
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-cache",
            "ETag": f'"{sha256(self._content).hexdigest()[:32]}"',
        }

    def response(self, request: Request) -> Response:
        """Return the file, or that it hasn't changed."""
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)


def files() -> dict[str, Page]:
    """Return the files of the page by name; no others are served, whatever a request names."""
    return {file.name: Page(file) for file in sorted(FOLDER.iterdir()) if file.suffix in KINDS}


def routes(service: Service) -> APIRouter:
    """Return the routes of the page."""
    router = APIRouter()
    served = files()
    process = psutil.Process(os.getpid())

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return served["index.html"].response(request)

    @router.get("/web/{name}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in served:
            raise Refusal(404, "the page has no such file", "name", "unknown_file")
        return served[name].response(request)

    @router.get("/status", tags=["health"], responses=responses())
    def status() -> Status:
        """Return what the server holds and does right now."""
        return Status(
            facts=len(service.memory),
            version=service.version,
            resident_bytes=process.memory_info().rss,
            running=service.engine.running,
            waiting=service.engine.waiting,
        )

    return router
