"""The server's process: one model, one memory that is open for writing, until it is told to stop."""

import logging

import uvicorn

from pipeline.config import stage
from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serve

logger = logging.getLogger(__name__)


@stage
def serve(serve: Serve) -> None:
    """Answer until the process is told to stop."""
    service = Service.open(serve)
    try:
        config = uvicorn.Config(
            create_app(service),
            host=serve.host,
            port=serve.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(serve.grace) or None,
        )
        uvicorn.Server(config).run()
    finally:
        service.close()


if __name__ == "__main__":
    serve()
