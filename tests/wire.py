"""A faulty wire: a real HTTP proxy on loopback in front of a real service, which loses, delays or spoils on order.

    with Wire("127.0.0.1", 8774) as wire:
        wire.fault = Fault.LOSE_REPLY
        ...  # point the client at wire.url
        assert wire.orders == [("POST", "/v2.1/servers")]

Faults strike orders only (POST, PUT, DELETE) unless `reads` is set as well.
"""

import http.client
import threading
from collections.abc import Iterable
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from typing_extensions import override


class Fault(StrEnum):
    """What the wire does to a request."""

    NONE = "none"
    LOSE_REQUEST = "lose_request"  #: the connection breaks before the service sees anything
    LOSE_REPLY = "lose_reply"  #: the service does it, and the connection breaks before its answer
    SILENT = "silent"  #: no answer while the fault lasts; the service does it when `release` is called
    UNAVAILABLE = "unavailable"  #: 503, as a front proxy answers without its service
    NONSENSE = "nonsense"  #: 200 with a page of HTML
    LIMITED = "limited"  #: 429 with Retry-After


class Wire:
    """The proxy and its one fault at a time. `orders` holds method and path of every order that arrived."""

    def __init__(self, host: str, port: int, *, prefix: str = "") -> None:
        self.fault = Fault.NONE
        self.reads = False
        self.orders: list[tuple[str, str]] = []
        self._upstream = (host, port)
        self._prefix = prefix
        self._go = threading.Event()
        self._held: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where a client finds the service through this wire."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self._prefix}"

    def release(self) -> None:
        """Lets what was held up through to the service, and waits until that has answered."""
        self._go.set()
        for thread in self._held:
            thread.join(30)
        self._held.clear()
        self._go.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fault = Fault.NONE
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _forward(
        self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() not in {"connection", "transfer-encoding"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _handler(wire) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's inside
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            @override
            def log_message(self, format: str, *args: object) -> None:
                """The wire says nothing of its own."""

            def _answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in {"connection", "transfer-encoding", "content-length", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = (self.command, self.path, list(self.headers.items()), body)
                order = self.command not in {"GET", "HEAD"}
                if order:
                    wire.orders.append((self.command, self.path))
                match wire.fault if order or wire.reads else Fault.NONE:
                    case Fault.NONE:
                        self._answer(*wire._forward(*request))
                    case Fault.LOSE_REQUEST:
                        self.close_connection = True
                    case Fault.LOSE_REPLY:
                        wire._forward(*request)
                        self.close_connection = True
                    case Fault.SILENT:

                        def later() -> None:
                            wire._go.wait(120)
                            wire._forward(*request)

                        held = threading.Thread(target=later, daemon=True)
                        held.start()
                        wire._held.append(held)
                        wire._go.wait(120)
                        self.close_connection = True
                    case Fault.UNAVAILABLE:
                        self._answer(503, [("Content-Type", "text/html")], b"<h1>503 Service Unavailable</h1>")
                    case Fault.LIMITED:
                        self._answer(429, [("Retry-After", "1")], b"{}")
                    case Fault.NONSENSE:
                        self._answer(200, [("Content-Type", "text/html")], b"<h1>It works!</h1>")

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - http.server asks for these names

        return Handler
