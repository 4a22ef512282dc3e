"""Fixtures of the outbox: `server` is a mail server, and the site is told of it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pytest_django import Settings

from tests.visa.outbox.sink import Sink, sink
from visa.environment import Mail, MailTls


@pytest.fixture
def server(settings: Settings) -> Iterator[Sink]:
    with sink() as running:
        tell_of(running.port, settings)
        yield running


def tell_of(port: int, settings: Settings, *, user: str = "", password: str = "") -> None:
    """The site's mail server is the one at this port of loopback."""
    mail = Mail(
        host="127.0.0.1", port=port, user=user, password=password, tls=MailTls.NONE, sender="visa@facility.example"
    )
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, mail=mail)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = mail.host, mail.port
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = user, password
    settings.DEFAULT_FROM_EMAIL = mail.sender
