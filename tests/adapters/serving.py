"""A web server for tests, over real sockets: each path answers as it is told, and may break off."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import trustme


class Request(NamedTuple):
    """What came in; header names are lower case, the path has its query."""

    method: str
    path: str
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What goes out. With `cut`, the connection ends after so many bytes of the body.

    Without `measured` the length is not said, and the connection's end is the body's.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    cut: int | None = None
    measured: bool = True


Answers = Callable[[Request], Answer]


class Site:
    """A running server: where it is, what it answers, and what it was asked."""

    def __init__(self, url: str, ca_file: Path | None) -> None:
        self.url = url
        self.ca_file = ca_file
        self.pages: dict[str, Answers] = {}
        self.asked: list[Request] = []

    def answer(self, request: Request) -> Answer:
        """The page of a path, or 404."""
        self.asked.append(request)
        page = self.pages.get(request.path.partition("?")[0])
        return page(request) if page is not None else Answer(b"nothing here", 404)

    def said(self, method: str) -> list[Request]:
        """The requests of one method."""
        return [each for each in self.asked if each.method == method]


@contextmanager
def site(tls_below: Path | None = None) -> Iterator[Site]:
    """A server on a free port; with TLS, its authority's certificate lies in that directory."""
    served: list[Site] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.rfile.read(int(headers.get("content-length", 0)))
            answer = served[0].answer(Request(self.command, self.path, headers))
            self.send_response(answer.status)
            if answer.measured:
                self.send_header("content-length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None or not answer.measured:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is told."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has gone is no fault of the server's."""

    server = Quiet(("127.0.0.1", 0), Handler)
    scheme, ca_file = "http", None
    if tls_below is not None:
        scheme, ca_file = "https", tls_below / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served.append(Site(f"{scheme}://127.0.0.1:{server.server_port}", ca_file))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
