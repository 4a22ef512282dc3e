"""A platform's door for machines, for tests of clouds alone: real HTTP on loopback, the shape of `instances/guest.py`.

It knows one secret for all and keeps what it is told. That the real door has this shape is for the tests that let real
machines fetch from a whole platform (tests/journeys, tests/borders).
"""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

from instances.userdata import DesktopSecret

TOKEN = "a-token-for-the-machines-of-tests"
REPORTING = "a-token-to-report-with"
_PATH = re.compile(r"/api/v1/guest/([0-9a-f-]{36})/(secrets|reports)/")


@dataclass
class Door:
    """What machines said, and how the door behaves: `answering` is the status of every answer, `losing` loses it."""

    secret: DesktopSecret
    url: str = ""
    #: by machine, each report as it came
    said: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    #: by machine, the words it named when it asked for its secrets
    claims: dict[str, list[str]] = field(default_factory=dict)
    answering: int = 200
    losing: bool = False

    def answer(self, machine: str, kind: str, token: str, body: Mapping[str, Any]) -> tuple[int, dict[str, str]]:
        if self.answering != 200:
            return self.answering, {"message": "not now"}
        if kind == "reports":
            if token != REPORTING:
                return 401, {"message": "This token is not valid here."}
            self.said.setdefault(machine, []).append(dict(body))
            return 204, {}
        if token != TOKEN:
            return 401, {"message": "This token is not valid here."}
        self.claims.setdefault(machine, []).append(str(body["claim"]))
        return 200, {
            "vnc_password": self.secret.password,
            "vnc_key": self.secret.key,
            "vnc_certificate": self.secret.certificate,
            "report_token": REPORTING,
        }


def open_door(secret: DesktopSecret, *, host: str = "127.0.0.1") -> Door:
    """A door of its own; it ends with the process."""
    door = Door(secret=secret)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found = _PATH.fullmatch(self.path)
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, told = door.answer(found[1], found[2], token, body) if found else (404, {})
            if door.losing:
                self.close_connection = True
                return
            text = json.dumps(told).encode() if status != 204 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer((host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    door.url = f"http://{host}:{server.server_address[1]}"
    return door


@cache
def door_of(secret: DesktopSecret) -> Door:
    """The one door of the run for this secret."""
    return open_door(secret)
