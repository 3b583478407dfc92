"""A server that listens: uvicorn on a free port of this machine, in a thread."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serve


@dataclass
class Listening:
    service: Service
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def listening(settings: Serve) -> Iterator[Listening]:
    service = Service.open(settings)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(service), log_config=None, access_log=False, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        try:
            while not server.started or not service.engine.ready:
                time.sleep(0.01)
            yield Listening(service, int(taken.getsockname()[1]))
        finally:
            server.should_exit = True
            thread.join(30)
            service.close()
