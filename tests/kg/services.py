"""An OpenAI-compatible service on this machine."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

from pipeline.kg.writers import Endpoint
from tests.kg.graphs import synthesis


class Server:
    """An OpenAI-compatible service in a thread; `replies` are status and body, the last one for good."""

    def __init__(self, replies: list[tuple[int, object]]) -> None:
        seen: list[tuple[str, dict[str, object], str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, body, self.headers["Authorization"]))
                status, reply = replies[min(len(seen), len(replies)) - 1]
                raw = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.seen = seen
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Server":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def endpoint(self) -> Endpoint:
        url = f"http://127.0.0.1:{self.server.server_port}/v1/"
        return replace(synthesis().endpoint, base_url=url, wait=0.01, retries=2, timeout=5.0)


ANSWER = {
    "choices": [{"message": {"content": "brewer"}}],
    "usage": {"prompt_tokens": 40, "completion_tokens": 2},
}
