"""The faulty wire does to a request what its rule says, and only to the requests that match."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from typing_extensions import override

from tests.wire import Fault, Wire


class Service(ThreadingHTTPServer):
    """Answers every request with how many it has heard."""

    daemon_threads = True
    heard = 0


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard += 1
        body = f"heard {self.server.heard} requests".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server asks for this name


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    with Wire("127.0.0.1", service.server_address[1]) as wire:
        yield wire


@contextmanager
def broken() -> Iterator[None]:
    with pytest.raises(requests.RequestException):
        yield


def test_a_rule_strikes_what_matches_as_often_as_it_says(wire: Wire) -> None:
    rule = wire.spoil(Fault.STATUS, method="POST", path="/servers$", status=409, headers=(("X-Why", "so"),), count=2)

    assert requests.get(f"{wire.url}/servers", timeout=5).status_code == 200
    assert requests.post(f"{wire.url}/ports", timeout=5).status_code == 200
    struck = [requests.post(f"{wire.url}/servers", timeout=5) for _ in range(3)]

    assert [answer.status_code for answer in struck] == [409, 409, 200]
    assert struck[0].headers["X-Why"] == "so"
    assert rule.hits == 2
    assert wire.orders == [("POST", "/ports"), *[("POST", "/servers")] * 3]


@pytest.mark.parametrize(
    ("fault", "heard"), [(Fault.LOSE_REQUEST, 0), (Fault.LOSE_REPLY, 1), (Fault.TRUNCATE, 1), (Fault.SILENT, 0)]
)
def test_a_broken_answer_says_nothing_of_what_was_done(wire: Wire, service: Service, fault: Fault, heard: int) -> None:
    wire.spoil(fault)

    with broken():
        requests.post(wire.url, timeout=0.5)

    assert service.heard == heard
    wire.release()
    assert service.heard == (1 if fault is Fault.SILENT else heard)


def test_an_order_can_be_executed_twice(wire: Wire, service: Service) -> None:
    wire.spoil(Fault.TWICE)

    assert requests.post(wire.url, timeout=5).text == "heard 1 requests"
    assert service.heard == 2


def test_a_stale_answer_is_the_one_before(wire: Wire, service: Service) -> None:
    assert requests.get(f"{wire.url}/list", timeout=5).text == "heard 1 requests"
    wire.spoil(Fault.STALE, path="/list", count=1)

    assert requests.get(f"{wire.url}/list", timeout=5).text == "heard 1 requests"
    assert service.heard == 1
    assert requests.get(f"{wire.url}/list", timeout=5).text == "heard 2 requests"


@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.SLOW_BODY])
def test_an_answer_can_be_slow(wire: Wire, fault: Fault) -> None:
    wire.spoil(fault, seconds=0.5)

    began = time.monotonic()
    assert requests.get(wire.url, timeout=5).text == "heard 1 requests"
    assert time.monotonic() - began >= 0.4


def test_nobody_is_there_while_it_is_away_not_even_for_connections_that_were_open(wire: Wire) -> None:
    with requests.Session() as session:
        assert session.get(wire.url, timeout=5).ok
        with wire.away(), broken():
            session.get(wire.url, timeout=5)
        assert session.get(wire.url, timeout=5).ok
