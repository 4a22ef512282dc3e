"""A faulty wire: a real HTTP proxy on loopback in front of a real service, which loses, delays or spoils on order.

    with Wire("127.0.0.1", 8774) as wire:
        wire.spoil(Fault.LOSE_REPLY, method="POST", path=r"/servers$", count=1)
        ...  # point the client at wire.url
        assert wire.orders == [("POST", "/v2.1/servers")]

Rules strike in the order they were given; the first that matches does. What no rule matches is struck by `fault`:
orders only (POST, PUT, DELETE) unless `reads` is set as well.
"""

import contextlib
import http.client
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

#: status, headers, body
Answer = tuple[int, list[tuple[str, str]], bytes]


class Fault(StrEnum):
    """What the wire does to a request. Nobody there at all is `Wire.away`."""

    NONE = "none"
    LOSE_REQUEST = "lose_request"  #: the connection breaks before the service sees anything
    LOSE_REPLY = "lose_reply"  #: the service does it, and the connection breaks before its answer
    SILENT = "silent"  #: no answer while the fault lasts; the service does it when `release` is called
    UNAVAILABLE = "unavailable"  #: 503, as a front proxy answers without its service
    NONSENSE = "nonsense"  #: 200 with a page of HTML
    LIMITED = "limited"  #: 429 with Retry-After
    DELAY = "delay"  #: the service hears of it `seconds` later
    STATUS = "status"  #: this status, headers and body, and the service hears nothing
    TWICE = "twice"  #: the service does it two times; the first answer is told
    TRUNCATE = "truncate"  #: the connection breaks in the middle of the answer
    STALE = "stale"  #: the answer before, to the same question; where there was none, this one
    SLOW_BODY = "slow_body"  #: the answer's body drips for `seconds`


@dataclass
class Rule:
    """One fault, for the requests that match and `count` of them at most (None: all). `hits` tells how many it hit."""

    fault: Fault
    method: str = ""
    path: str = ""
    count: int | None = None
    seconds: float = 1.0
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"
    #: strikes each so manieth of the requests that match
    each: int = 1
    hits: int = field(default=0, init=False)
    met: int = field(default=0, init=False)

    def matches(self, method: str, path: str) -> bool:
        spent = self.count is not None and self.hits >= self.count
        if spent or self.method not in {"", method} or re.search(self.path, path) is None:
            return False
        self.met += 1
        return self.met % self.each == 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed takes no answer: that is its trouble and not the wire's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Wire:
    """The proxy. `calls` holds method and path of every request that arrived, `orders` those that were no question."""

    def __init__(self, host: str, port: int, *, prefix: str = "") -> None:
        self.fault = Fault.NONE
        self.reads = False
        self.calls: list[tuple[str, str]] = []
        #: when each call arrived, in seconds of the day's clock
        self.times: list[float] = []
        self._rules: list[Rule] = []
        self._told: dict[str, Answer] = {}
        self._upstream = (host, port)
        self._prefix = prefix
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._held: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listen(("127.0.0.1", 0))

    def _listen(self, address: tuple[str, int]) -> None:
        self._server = _Server(address, self._handler())
        self._address = ("127.0.0.1", self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where a client finds the service through this wire."""
        return f"http://127.0.0.1:{self._address[1]}{self._prefix}"

    @property
    def orders(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.calls if method not in {"GET", "HEAD"}]

    @property
    def open(self) -> int:
        """How many connections stand."""
        with self._lock:
            return len(self._open)

    def spoil(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        count: int | None = None,
        seconds: float = 1.0,
        status: int = 500,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"{}",
        each: int = 1,
    ) -> Rule:
        """Adds a rule: `path` is a regular expression, searched for in path and query."""
        rule = Rule(fault, method, path, count, seconds, status, headers, body, each)
        with self._lock:
            self._rules.append(rule)
        return rule

    def mend(self) -> None:
        """Takes every rule and fault away."""
        with self._lock:
            self._rules.clear()
        self.fault, self.reads = Fault.NONE, False

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Within the block nobody takes a connection, and those that were open are broken."""
        self._close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self._listen(self._address)
            self._thread.start()

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
        self.mend()
        self.release()
        self._close()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _rule_for(self, method: str, path: str) -> Rule:
        with self._lock:
            self.calls.append((method, path))
            self.times.append(time.time())
            for rule in self._rules:
                if rule.matches(method, path):
                    rule.hits += 1
                    return rule
        order = method not in {"GET", "HEAD"}
        return Rule(self.fault if order or self.reads else Fault.NONE)

    def _forward(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
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

            @override
            def setup(self) -> None:
                super().setup()
                with wire._lock:
                    wire._open.add(self.connection)

            @override
            def finish(self) -> None:
                with wire._lock:
                    wire._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def _answer(
                self,
                status: int,
                headers: Iterable[tuple[str, str]],
                body: bytes,
                drips: float = 0.0,
                whole: bool = True,
            ) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in {"connection", "transfer-encoding", "content-length", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if not whole:
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                elif drips:
                    size = len(body) // 20 + 1
                    for place in range(0, len(body), size):
                        time.sleep(drips * size / len(body))
                        self.wfile.write(body[place : place + size])
                else:
                    self.wfile.write(body)

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = (self.command, self.path, list(self.headers.items()), body)
                rule = wire._rule_for(self.command, self.path)
                match rule.fault:
                    case Fault.NONE:
                        self._tell(wire._forward(*request))
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
                        self._answer(429, [("Retry-After", f"{rule.seconds:g}")], b"{}")
                    case Fault.NONSENSE:
                        self._answer(200, [("Content-Type", "text/html")], b"<h1>It works!</h1>")
                    case Fault.DELAY:
                        time.sleep(rule.seconds)
                        self._tell(wire._forward(*request))
                    case Fault.STATUS:
                        self._answer(rule.status, (("Content-Type", "application/json"), *rule.headers), rule.body)
                    case Fault.TWICE:
                        answer = wire._forward(*request)
                        wire._forward(*request)
                        self._tell(answer)
                    case Fault.TRUNCATE:
                        self._answer(*wire._forward(*request), whole=False)
                    case Fault.STALE:
                        self._answer(*wire._told.get(self.path) or wire._forward(*request))
                    case Fault.SLOW_BODY:
                        self._answer(*wire._forward(*request), drips=rule.seconds)

            def _tell(self, answer: Answer) -> None:
                if self.command == "GET":
                    wire._told[self.path] = answer
                self._answer(*answer)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - http.server asks for these names

        return Handler
