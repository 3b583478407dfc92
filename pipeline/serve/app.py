"""The server's application: every route, and what stands before them all."""

from importlib import import_module
from importlib.util import find_spec

from fastapi import FastAPI

from pipeline.serve import refusals
from pipeline.serve.limits import Guard
from pipeline.serve.service import Service

ROOMS = "chat", "editing", "page"
"""Modules of this package whose `routes(service)` are served."""


def create_app(service: Service) -> FastAPI:
    """Return the application that serves `service`."""
    app = FastAPI(title="Living memory", docs_url=None, redoc_url=None, redirect_slashes=False)
    refusals.install(app)
    app.add_middleware(Guard, token=service.token, settings=service.settings)
    for room in ROOMS:
        name = f"{__package__}.{room}"
        if find_spec(name) is not None:
            app.include_router(import_module(name).routes(service))
    return app
