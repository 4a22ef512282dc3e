"""A real SMTP server that keeps what it is given, and has bad days: `with sink() as server`."""

import asyncio
import contextlib
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from deploy.processes import free_port

USER, PASSWORD = "visa", "the password of the mail server"


class Sink:
    """Takes mails on loopback. `bad_days` are used up one by one, each on one mail."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []
        self.bad_days: list[str] = []
        self.addresses: list[str] = []
        self._controller: Controller | None = None

    def start(self) -> None:
        """Takes connections when this returns."""
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ready_timeout=30,
            authenticator=_knows,
            auth_require_tls=False,
        )
        self._controller.start()

    def stop(self) -> None:
        """Refuses connections from then on."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name for it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.bad_days and self.bad_days[0] == "no such person":
            self.bad_days.pop(0)
            return "550 5.1.1 no such person: " + address
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        day = self.bad_days.pop(0) if self.bad_days else ""
        if day == "full":
            return "452 4.3.1 no room for now"
        if day == "never":
            return "554 5.6.0 never such a mail"
        self.addresses += envelope.rcpt_tos
        self.mails.append(BytesParser(_class=EmailMessage, policy=default).parsebytes(envelope.original_content or b""))
        if day == "took it, and went away before saying so":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        if day == "took it, and said no":
            return "451 4.3.0 something went wrong"
        if day == "slow":
            await asyncio.sleep(2)
        return "250 taken"


def _knows(server: SMTP, session: Session, envelope: Envelope, mechanism: str, said: object) -> AuthResult:
    good = isinstance(said, LoginPassword) and (said.login, said.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=False)


@contextlib.contextmanager
def sink() -> Iterator[Sink]:
    """A mail server that runs."""
    server = Sink()
    server.start()
    try:
        yield server
    finally:
        server.stop()
