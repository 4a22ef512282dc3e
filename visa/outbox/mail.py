"""One mail, by SMTP (RFC 5321), once per key as far as SMTP allows.

SMTP cannot promise once: a server that took a mail and went away before it said so is sent the mail again. Both then
carry one Message-ID, made of the key, by which mail programs and servers know them for one.
"""

import contextlib
import hashlib
import smtplib
from dataclasses import dataclass
from email.utils import formataddr, parseaddr

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend

from visa.outbox.couriers import Away, Hopeless, Refused


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What somebody is told, as plain text and as HTML."""

    address: str
    subject: str
    text: str
    html: str


def is_on() -> bool:
    """Whether this site sends mail; only processes that drive machines know (`VISA_MAIL_HOST`)."""
    return settings.ENVIRONMENT.mail is not None


def message_id(key: str) -> str:
    """The Message-ID (RFC 5322 3.6.4) of what is sent under a key: always the same, and telling nothing of the key."""
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:40]}@{settings.SITE.host}>"


def send(key: str, letter: Letter) -> None:
    """Hands a mail to the site's mail server. Raises Away, Refused or Hopeless; no message of theirs holds a secret."""
    sender = formataddr((settings.SITE.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))
    mail = EmailMultiAlternatives(
        # a line break in a subject would begin another header
        subject=" ".join(letter.subject.split()),
        body=letter.text,
        from_email=sender,
        to=[letter.address],
        headers={
            "Message-ID": message_id(key),
            # no answer of a machine to a machine (RFC 3834)
            "Auto-Submitted": "auto-generated",
        },
        connection=(with_server := get_connection()),
    )
    mail.attach_alternative(letter.html, "text/html")
    try:
        mail.send()
    except smtplib.SMTPRecipientsRefused as error:
        _recipient_refused(min(code for code, _words in error.recipients.values()), error)
    except smtplib.SMTPDataError as error:
        if _for_ever(error.smtp_code):
            raise Hopeless(_told(error)) from error
        raise Refused(_told(error)) from error
    except (smtplib.SMTPException, OSError) as error:
        # Also what the server says to our name, our password or our sender: that is one mistake for all mails.
        raise Away(_told(error)) from error
    except UnicodeError as error:
        raise Hopeless("the address cannot be written") from error
    finally:
        _leave(with_server)


def greet() -> str:
    """The first line with which the site's mail server answers EHLO, after TLS and log-in as mails are sent.

    Raises Away, with a message that holds no secret.
    """
    with_server = get_connection()
    if not isinstance(with_server, EmailBackend):
        return type(with_server).__name__
    try:
        with_server.open()
        server = with_server.connection
        if server is None:
            raise Away("no connection")
        server.ehlo_or_helo_if_needed()
        return (server.ehlo_resp or server.helo_resp or b"").decode(errors="replace").partition("\n")[0][:100]
    except (smtplib.SMTPException, OSError) as error:
        raise Away(_told(error)) from error
    finally:
        _leave(with_server)


def _leave(with_server: BaseEmailBackend) -> None:
    """Closes what is open, a connection that was opened half way too."""
    with contextlib.suppress(smtplib.SMTPException, OSError):
        with_server.close()


def _recipient_refused(code: int, error: smtplib.SMTPException) -> None:
    told = f"the address was refused ({code})"
    if _for_ever(code):
        raise Hopeless(told) from error
    raise Refused(told) from error


def _for_ever(code: int) -> bool:
    """Whether a reply is a permanent one (RFC 5321 4.2.1)."""
    return 500 <= code <= 599


def _told(error: Exception) -> str:
    """What went wrong, without a word of the server's: it may repeat an address."""
    code = getattr(error, "smtp_code", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"
