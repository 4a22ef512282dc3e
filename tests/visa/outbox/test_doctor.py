"""What the doctor says of the mail server and of what waits to leave."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from pytest_django import Settings

from instances import doctor
from instances.doctor import Finding
from tests.visa.outbox.conftest import tell_of
from tests.visa.outbox.sink import PASSWORD, USER, Sink
from visa.outbox import outbox, sending
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db


def asked(name: str) -> Finding:
    (finding,) = doctor.examine([name])
    return finding


def test_a_site_without_mail_is_well_and_says_so() -> None:
    told = asked("Mail")

    assert told.ok
    assert "No mail is sent" in told.sentence


def test_a_mail_server_that_is_down_or_does_not_know_us_is_missed(server: Sink, settings: Settings) -> None:
    assert asked("Mail").ok

    tell_of(server.port, settings, user=USER, password="wrong")
    denied = asked("Mail")
    tell_of(server.port, settings, user=USER, password=PASSWORD)
    assert asked("Mail").ok
    server.stop()
    down = asked("Mail")

    assert not denied.ok
    assert "SMTPAuthenticationError 535" in denied.sentence
    assert "wrong" not in denied.sentence + denied.to_do
    assert not down.ok
    assert f"127.0.0.1, port {server.port}" in down.sentence
    assert denied.to_do


def test_what_waits_for_long_is_told_with_what_came_of_it() -> None:
    outbox.put(key="one", kind="mail", payload={"notice": "ready", "about": "x", "to": "y"})
    assert asked("Outbox").ok
    Outbox.objects.update(made_at=Now() - timedelta(minutes=25), attempts=3, said="SMTPAuthenticationError 535")

    told = asked("Outbox")

    assert not told.ok
    assert "25 min (tried 3 times, the last time: SMTPAuthenticationError 535)" in told.sentence
    Outbox.objects.update(sent_at=Now(), given_up=True)
    told = asked("Outbox")
    assert told.ok
    assert "0 messages wait to leave; 1 were given up" in told.sentence
    assert sending.send_due() == 0
