"""The server's process: one model, one memory that is open for writing, until it is told to stop."""

import asyncio
import logging
import signal
import sys
import time
from types import FrameType

import uvicorn

from pipeline.config import stage
from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serve

SWITCH = 0.0001
"""Seconds after which a thread that computes in Python gives way to one that waits for it: a change goes
through several, and Python's own 5 ms would count for each."""
KEPT = 75
"""Seconds that a connection without requests is kept."""

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A server that, told to stop, lets running answers end and turns new questions away meanwhile.

    Args:
        config: of uvicorn.
        service: what it serves.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ending: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; told again, stop at once."""
        if self._service.engine.closing:
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: stopping once what runs has ended", signal.Signals(sig).name)
        self._service.engine.drain()

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether to end."""
        engine = self._service.engine
        if engine.closing and not (engine.running or engine.waiting):
            self.should_exit = True
        return await super().on_tick(counter)


@stage
def serve(serve: Serve) -> None:
    """Answer until the process is told to stop."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    sys.setswitchinterval(SWITCH)
    began = time.perf_counter()
    service = Service.open(serve)
    try:
        if service.token.made is not None:
            logger.info("the token for writing is in %s", service.token.made)
        logger.info(
            "%d facts of %s, opened in %.1f s", len(service.memory), serve.memory, time.perf_counter() - began
        )
        config = uvicorn.Config(
            create_app(service),
            host=serve.host,
            port=serve.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEPT,
            timeout_graceful_shutdown=max(1, int(serve.grace)),
        )
        Server(config, service).run()
    finally:
        service.close()


if __name__ == "__main__":
    serve()
