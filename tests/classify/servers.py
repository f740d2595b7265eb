"""A real server of OpenAI's embeddings call, for one test at a time."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


@contextmanager
def embeddings(answer: Answer, port: int = 0) -> Iterator[str]:
    """Serve `POST /v1/embeddings` by `answer` (of the parsed body); gives the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            status, body = answer(json.loads(self.rfile.read(size)))
            known = self.path == "/v1/embeddings"
            self.send_response(status if known else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def vectors(body: dict[str, Any]) -> tuple[int, bytes]:
    """For each text (its length, its number of spaces, 1), last text first."""
    rows = [[len(text), text.count(" "), 1.0] for text in body["input"]]
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
    return 200, json.dumps({"object": "list", "data": data[::-1], "model": body["model"]}).encode()


def port_of(url: str) -> int:
    """Where the server of a base URL listens, so that another may take its place."""
    return urlsplit(url).port or 0
