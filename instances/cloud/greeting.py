"""Whether a machine's desktop answers: one TCP connection and the first twelve bytes of RFB (RFC 6143 section 7.1.1).

A look, not a proof: the gateway proves the machine's identity by its certificate before any picture passes.
"""

import errno
import selectors
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from instances.cloud.protocol import Desktop

#: how long a machine may take to greet, in seconds
PATIENCE: Final = 3.0
#: so many are asked at once
AT_ONCE: Final = 200
_GREETING: Final = b"RFB 003."
_LENGTH: Final = 12


def desktop_answers(desktop: Desktop) -> bool:
    """True where an RFB server greets at this address within `PATIENCE`."""
    return bool(which_answer({desktop}))


def which_answer(desktops: Collection[Desktop], *, patience: float = PATIENCE, at_once: int = AT_ONCE) -> set[Desktop]:
    """Those of many that greet, asked side by side: one that is silent costs the others nothing.

    Each has `patience` seconds from when it is asked. On a busy host few `at_once` are answered in time, many are not.
    """
    # One selector and no more: a thousand desktops are asked every few seconds, and asyncio's streams do more for each.
    ahead, answering = list(set(desktops)), set()
    calls: dict[_Call, None] = {}  # oldest first, and so the one that ends first
    with selectors.DefaultSelector() as selector:
        try:
            while ahead or calls:
                while ahead and len(calls) < at_once:
                    if (call := _call(ahead.pop(), until=time.monotonic() + patience)) is not None:
                        selector.register(call.line, selectors.EVENT_READ, call)
                        calls[call] = None
                first = next(iter(calls), None)
                ready = selector.select(max(0.0, first.until - time.monotonic())) if first else []
                over = {key.data for key, _events in ready if key.data.hear()}
                answering |= {call.desktop for call in over if call.greeted}
                for call in {*over, *_late(calls)}:
                    selector.unregister(call.line)
                    call.line.close()
                    del calls[call]
        finally:
            for call in calls:
                call.line.close()
    return answering


@dataclass(eq=False, kw_only=True)
class _Call:
    """A connection to a desktop, and what came of its greeting until now."""

    desktop: Desktop
    line: socket.socket
    until: float
    heard: bytes = b""

    def hear(self) -> bool:
        """Takes what there is. True where no more is to come."""
        try:
            more = self.line.recv(_LENGTH - len(self.heard))
        except BlockingIOError:
            return False
        except OSError:
            return True
        self.heard += more
        return not more or len(self.heard) == _LENGTH

    @property
    def greeted(self) -> bool:
        return len(self.heard) == _LENGTH and self.heard.startswith(_GREETING)


def _late(calls: Iterable[_Call]) -> Iterable[_Call]:
    """Those at the front whose time is over."""
    now = time.monotonic()
    return takewhile(lambda call: call.until <= now, calls)


def _call(desktop: Desktop, *, until: float) -> _Call | None:
    """Begins to connect. None where that cannot even begin."""
    family = socket.AF_INET6 if ":" in desktop.host else socket.AF_INET
    line = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        begun = line.connect_ex((desktop.host, desktop.port)) in {0, errno.EINPROGRESS}
    except OSError:  # an address that is none
        begun = False
    if begun:
        return _Call(desktop=desktop, line=line, until=until)
    line.close()
    return None
