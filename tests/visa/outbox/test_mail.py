"""Mail by a real SMTP server: on its bad days mail comes later, and once per key as far as SMTP allows."""

import logging
from collections.abc import Mapping
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now
from pytest_django import Settings

from tests.visa.outbox.conftest import tell_of
from tests.visa.outbox.sink import PASSWORD, USER, Sink
from visa.outbox import couriers, mail, outbox, sending
from visa.outbox.couriers import Away
from visa.outbox.models import Outbox

ADDRESS = "researcher@facility.example"


def by_mail(key: str, payload: Mapping[str, object]) -> str:
    mail.send(key, mail.Letter(address=ADDRESS, subject="It is\nready", text="Text é", html="<p>HTML é</p>"))
    return ""


@pytest.fixture(autouse=True)
def _courier(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(couriers, "_couriers", {"letter": by_mail})


def put(key: str = "ready:1") -> None:
    with transaction.atomic():
        outbox.put(key=key, kind="letter", payload={})


def try_again() -> int:
    Outbox.objects.filter(sent_at=None).update(due_at=Now() - timedelta(seconds=1))
    return sending.send_due()


def test_a_mail_is_text_and_html_and_says_that_a_machine_wrote_it(server: Sink) -> None:
    put()

    assert sending.send_due() == 1
    (mail_sent,) = server.mails
    assert server.addresses == [ADDRESS]
    assert mail_sent["From"] == "VISA <visa@facility.example>"
    assert mail_sent["Subject"] == "It is ready"
    assert mail_sent["Auto-Submitted"] == "auto-generated"
    text, html = mail_sent.get_body(("plain",)), mail_sent.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "Text é" in text.get_content()
    assert "<p>HTML é</p>" in html.get_content()


def test_a_server_that_is_down_gets_the_mail_when_it_is_back_and_once(server: Sink) -> None:
    put()
    server.stop()

    assert [sending.send_due(), try_again(), try_again()] == [0, 0, 0]
    server.start()
    assert [try_again(), try_again()] == [1, 0]
    assert len(server.mails) == 1


@pytest.mark.parametrize("day", ["took it, and went away before saying so", "took it, and said no"])
def test_a_server_that_takes_a_mail_twice_can_tell_that_it_is_one(server: Sink, day: str) -> None:
    put()
    put("ready:2")
    server.bad_days = [day]

    sending.send_due()
    try_again()
    try_again()

    ids = [one["Message-ID"] for one in server.mails]
    assert len(ids) == 3
    assert set(ids) == {mail.message_id("ready:1"), mail.message_id("ready:2")}
    assert all(one.endswith("@testserver>") for one in ids)


def test_a_server_without_room_gets_the_mail_later(server: Sink) -> None:
    put()
    server.bad_days = ["full", "full"]

    assert [sending.send_due(), try_again(), try_again(), try_again()] == [0, 0, 1, 0]
    assert len(server.mails) == 1


@pytest.mark.parametrize("day", ["no such person", "never"])
def test_what_a_server_refuses_for_ever_is_given_up_and_the_next_mail_goes(server: Sink, day: str) -> None:
    put()
    put("ready:2")
    server.bad_days = [day]

    assert [sending.send_due(), try_again()] == [2, 0]
    assert [one["Message-ID"] for one in server.mails] == [mail.message_id("ready:2")]
    refused = Outbox.objects.get(key="ready:1")
    assert refused.given_up
    assert ADDRESS not in refused.said


def test_no_secret_is_logged_where_the_log_in_fails(
    server: Sink, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    tell_of(server.port, settings, user=USER, password="another password")
    put()
    with caplog.at_level(logging.DEBUG):
        assert sending.send_due() == 0

    said = Outbox.objects.get().said + caplog.text
    assert "SMTPAuthenticationError 535" in said
    assert "another password" not in said
    tell_of(server.port, settings, user=USER, password=PASSWORD)
    assert try_again() == 1


def test_a_server_without_tls_gets_nothing_where_tls_is_asked_for(server: Sink, settings: Settings) -> None:
    settings.EMAIL_USE_TLS = True
    put()

    assert sending.send_due() == 0
    assert server.mails == []
    assert Outbox.objects.get().said == "SMTPNotSupportedError"


def test_a_server_that_says_nothing_holds_a_courier_up_for_its_time_only(server: Sink, settings: Settings) -> None:
    settings.EMAIL_TIMEOUT = 0.5
    server.bad_days = ["slow"]
    put()

    assert sending.send_due() == 0
    assert Outbox.objects.get().said in {"TimeoutError", "SMTPServerDisconnected"}


def test_the_server_is_greeted_as_mails_are_sent(server: Sink, settings: Settings) -> None:
    assert mail.greet()
    tell_of(server.port, settings, user=USER, password=PASSWORD)
    assert mail.greet()

    server.stop()
    with pytest.raises(Away):
        mail.greet()
