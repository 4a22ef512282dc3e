"""Whether a machine's desktop answers: one TCP connection and the first twelve bytes of RFB (RFC 6143 section 7.1.1).

A look, not a proof: the gateway proves the machine's identity by its certificate before any picture passes.
"""

import socket

from instances.cloud.protocol import Desktop

#: how long a machine may take to greet, in seconds
PATIENCE = 3.0


def desktop_answers(desktop: Desktop) -> bool:
    """True where an RFB server greets at this address within `PATIENCE`."""
    greeting = b""
    try:
        with socket.create_connection((desktop.host, desktop.port), timeout=PATIENCE) as connection:
            while len(greeting) < 12:
                more = connection.recv(12 - len(greeting))
                if not more:
                    break
                greeting += more
    except OSError:
        return False
    return greeting.startswith(b"RFB 003.")
