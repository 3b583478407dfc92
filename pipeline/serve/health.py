"""Whether the server lives, whether it is ready, and what it counts."""

import time
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.metrics import TYPE, Metrics
from pipeline.serve.refusals import Refusal, responses
from pipeline.serve.service import Service
from pipeline.serve.shown import Shown


class Health(Shown):
    """How the server is."""

    status: Literal["ok"] = Field(description="`ok`; anything else is an error.", examples=["ok"])


def routes(service: Service) -> APIRouter:
    """Return the routes of health and metrics."""
    router = APIRouter(tags=["health"])
    later = {"Retry-After": str(service.settings.retry_after)}

    @router.get("/healthz", responses=responses(503))
    async def healthz() -> Health:
        """Say whether the process can answer at all; one that can't is to be started anew."""
        if not service.engine.alive:
            raise Refusal(503, "the model's thread has ended", code="dead", headers=later)
        return Health(status="ok")

    @router.get("/readyz", responses=responses(503))
    async def readyz() -> Health:
        """Say whether to send questions here: the model has answered once, and the server isn't stopping."""
        if not service.engine.ready or service.engine.closing or not service.engine.alive:
            raise Refusal(503, "the server is starting or stopping", code="not_ready", headers=later)
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses=responses() | {200: {"content": {"text/plain": {}}, "description": "Of Prometheus."}},
    )
    def metrics() -> Response:
        """Tell counters and times in the form of Prometheus."""
        return Response(service.metrics.told(), media_type=TYPE)

    return router


class Counted:
    """Counts and times requests by method, route and status.

    Args:
        app: what comes behind.
        metrics: where it counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.took.labels(method, route).observe(time.perf_counter() - began)


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
