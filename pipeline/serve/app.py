"""The server's application: every route, and what stands before them all."""

from fastapi import FastAPI

from pipeline.serve import chat, editing, health, page, refusals
from pipeline.serve.limits import Guard
from pipeline.serve.service import Service

ROOMS = chat, editing, health, page
"""Modules whose `routes(service)` are served."""


def create_app(service: Service) -> FastAPI:
    """Return the application that serves `service`."""
    app = FastAPI(title="Living memory", docs_url=None, redoc_url=None, redirect_slashes=False)
    refusals.install(app)
    app.add_middleware(Guard, token=service.token, settings=service.settings)
    app.add_middleware(health.Counted, metrics=service.metrics)
    for room in ROOMS:
        app.include_router(room.routes(service))
    return app
