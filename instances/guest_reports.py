"""What machines fetch and what they say: their passes, their reports, their consoles.

A machine is given a pass in its user-data: signed, for this machine and this attempt to make it, good for one use.
Whoever uses it names a random word of its own making, and gets the machine's secrets and a token to report with; with
the same word it may ask again, when the answer was lost, until it has said something (docs/decisions/0012). Knows no
request and no cloud: the door is `guest`, consoles are read by workers.
"""

import contextlib
import hashlib
import ipaddress
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Final
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.cache import cache
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from instances import credentials
from instances.announcements import announce
from instances.lifecycle import Seen
from instances.models import ConsoleExcerpt, GuestPass, GuestReport, Instance
from instances.reports import CONSOLE_KEPT, Report, Step, excerpt
from instances.userdata import DesktopSecret
from visa.audit import trail
from visa.errors import Invalid, Refusal

log = logging.getLogger(__name__)

#: how long a pass waits to be used: a slow build and a slow boot
PASS_LIFE: Final = timedelta(hours=1)
#: different things one machine may speak of
MOST_SUBJECTS: Final = 40
#: a machine that has said nothing for so long is listened to on its console, and no more often than this
SILENCE: Final = timedelta(seconds=60)
LISTEN_AGAIN: Final = timedelta(seconds=30)
#: calls with one token, in each process
CALLS_A_MINUTE: Final = 120

_PASS, _REPORTER = "visa.guest.pass", "visa.guest.reporter"
_CLAIM = re.compile(r"[A-Za-z0-9_-]{32,128}")


class PassRefused(Refusal):
    """This token is none of ours, or none for this."""

    code: ClassVar[str] = "token_refused"
    status: ClassVar[int] = 401


class PassUsed(Refusal):
    """The pass was used already, by somebody who named another word."""

    code: ClassVar[str] = "pass_used"
    status: ClassVar[int] = 403


class PassExpired(Refusal):
    """The pass was not used in time."""

    code: ClassVar[str] = "pass_expired"
    status: ClassVar[int] = 403


class TooOften(Refusal):
    """One machine, more calls than it has any use for."""

    code: ClassVar[str] = "too_often"
    status: ClassVar[int] = 429


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a machine gets for its pass."""

    secret: DesktopSecret = field(repr=False)
    report_token: str = field(repr=False)


def draw(instance_id: UUID, *, attempt: int) -> str:
    """A token for the user-data of this attempt to make the machine. It opens nothing before it is issued."""
    return _sign({"machine": instance_id.hex, "attempt": attempt, "word": secrets.token_urlsafe(16)}, _PASS)


def issue(instance_id: UUID, token: str) -> None:
    """Makes a drawn token a pass, from now on. Of it only the hash is kept."""
    now = timezone.now()
    # A machine that waits for room is given one at each try.
    GuestPass.objects.filter(instance_id=instance_id, used_at=None, expires_at__lt=now - PASS_LIFE).delete()
    GuestPass.objects.create(token_hash=_hash(token), instance_id=instance_id, made_at=now, expires_at=now + PASS_LIFE)


def enrolment(instance_id: UUID, token: str) -> GuestPass:
    """The pass a token of a machine's user-data stands for. Raises PassRefused where it is none of a live machine's."""
    _facts(token, _PASS, instance_id)
    found = (
        GuestPass.objects.select_related("instance").filter(token_hash=_hash(token), instance_id=instance_id).first()
    )
    if found is None or found.instance.deleted_at is not None or not found.instance.desktop_secret:
        raise PassRefused(_("This token is not valid here."))
    return found


def redeem(found: GuestPass, claim: str, *, address: str = "") -> Handed:
    """The machine's secrets, for its pass. `claim` is the random word of whoever asks, from `address`.

    Raises Invalid, PassExpired, PassUsed. Many may ask at once: one gets them.
    """
    if not _CLAIM.fullmatch(claim):
        raise Invalid(_("Name a random word of your own, of 32 to 128 letters and digits."), field="claim")
    key, claimed, instance_id = found.token_hash, _hash(claim), found.instance_id
    with transaction.atomic():
        # One statement decides, on the row's own columns, so that of many at once one is first.
        first = (
            not _later_used(found)
            and GuestPass.objects.filter(token_hash=key, used_at=None, expires_at__gt=Now()).update(
                used_at=Now(), used_from=_ip(address), claim_hash=claimed
            )
            == 1
        )
        if first:
            trail.record(
                "instance.guest.enrolled",
                kind="instance",
                object_id=instance_id,
                detail={"at_its_address": address == found.instance.desktop_host},
            )
    if not first:
        found.refresh_from_db(fields=["used_at", "claim_hash", "expires_at"])
        if found.used_at is None and not _later_used(found):
            raise PassExpired(_("This token was not used in time. Delete the machine and launch again."))
        if not _may_ask_again(found, claimed):
            _tell_of_second_use(found, address)
            raise PassUsed(_("This token was used already."))
    secret = credentials.unseal(found.instance.desktop_secret, settings.ENVIRONMENT.machine_keys)
    return Handed(secret=secret, report_token=_sign({"machine": instance_id.hex, "pass": key}, _REPORTER))


def _later_used(found: GuestPass) -> bool:
    """Whether the machine was made anew since, and the new one has come up."""
    later = GuestPass.objects.filter(instance_id=found.instance_id, made_at__gt=found.made_at)
    return later.exclude(used_at=None).exists()


def _may_ask_again(found: GuestPass, claimed: str) -> bool:
    """Whether this is the same machine, whose answer was lost: the same word, and nothing was heard of it since."""
    if not secrets.compare_digest(found.claim_hash, claimed) or found.used_at is None:
        return False
    heard = GuestReport.objects.filter(instance_id=found.instance_id, heard="network", at__gte=found.used_at)
    return found.expires_at > timezone.now() and not heard.exists()


def _tell_of_second_use(found: GuestPass, address: str) -> None:
    """Once an hour for each pass and process: a dead token lies about in its machine, for anybody to play with."""
    if cache.add(f"pass-refused:{found.token_hash}", 1, 3600):
        log.warning("instance %s: its pass was shown a second time, from %s", found.instance_id, address)
        trail.record("instance.guest.refused", kind="instance", object_id=found.instance_id, reason="pass_used")


def reporter(instance_id: UUID, token: str) -> GuestPass:
    """The pass behind a token to report with. Raises PassRefused where it is none, or the machine is not there now."""
    facts = _facts(token, _REPORTER, instance_id)
    found = (
        GuestPass.objects.filter(
            token_hash=str(facts.get("pass", "")), instance_id=instance_id, instance__deleted_at=None
        )
        .exclude(used_at=None)
        .first()
    )
    if found is None or _later_used(found):
        raise PassRefused(_("This token is not valid here."))
    return found


def hear(instance_id: UUID, said: Iterable[Report], *, heard: str) -> bool:
    """Writes down what a machine says of itself, `heard` over the "network" or on its "console".

    What it says of a new boot ends what it said of the one before. True where anything is new; then it is announced.
    """
    with transaction.atomic():
        instance = Instance.objects.select_related("owner").filter(id=instance_id, deleted_at=None).first()
        if instance is None:
            return False
        before = {(one.step, one.subject): one for one in GuestReport.objects.filter(instance_id=instance_id)}
        wanted: dict[tuple[str, str], Report] = {}
        for report in said:
            if report.step is Step.BOOTED:
                wanted.clear()
            wanted[report.step, report.subject] = report
        booted = any(report.step is Step.BOOTED for report in wanted.values())
        stale = [one.pk for key, one in before.items() if booted and key not in wanted]
        new = [key for key in wanted if key not in before]
        for key in new[max(0, MOST_SUBJECTS - len(before) + len(stale)) :]:
            log.warning("instance %s says more than is kept of it", instance_id)
            del wanted[key]
        changed = [
            report
            for key, report in wanted.items()
            if (old := before.get(key)) is None or (old.ok, old.text, old.heard) != (report.ok, report.text, heard)
        ]
        GuestReport.objects.filter(pk__in=stale).delete()
        GuestReport.objects.bulk_create(
            [
                GuestReport(
                    instance_id=instance_id,
                    step=report.step,
                    ok=report.ok,
                    subject=report.subject,
                    text=report.text,
                    at=Now(),
                    heard=heard,
                )
                for report in (list(wanted.values()) if booted else changed)
            ],
            update_conflicts=True,
            unique_fields=["instance", "step", "subject"],
            update_fields=["ok", "text", "at", "heard"],
        )
        if changed or stale:
            transaction.on_commit(lambda: announce(instance.id, instance.owner.public_id))
    return bool(changed or stale)


def console_is_due(instance: Instance, seen: Seen, now: datetime) -> bool:
    """Whether a worker should read this machine's console: somebody asked, or it boots and has said nothing.

    Asks the database only for machines that boot for longer than usual, and for those that rest.
    """
    # Seen to boot before as well: until then `step_since` is when it began to be made.
    silent = seen is Seen.BOOTING == instance.seen and now - instance.step_since > SILENCE
    if not silent and seen not in {Seen.READY, Seen.STOPPED, Seen.FAILED}:
        return False
    kept = ConsoleExcerpt.objects.filter(instance_id=instance.id).first()
    if kept is not None and kept.asked_at is not None and (kept.read_at is None or kept.read_at < kept.asked_at):
        return True
    if not silent or (kept is not None and kept.read_at is not None and now - kept.read_at < LISTEN_AGAIN):
        return False
    return is_silent(instance)


def is_silent(instance: Instance) -> bool:
    """Whether a machine has said nothing over the network since it is as it is now."""
    heard = GuestReport.objects.filter(instance_id=instance.id, heard="network", at__gte=instance.step_since)
    return not heard.exists()


def keep_console(instance_id: UUID, text: str) -> None:
    """Keeps the end of a console for those who asked."""
    shown = excerpt(text)
    ConsoleExcerpt.objects.update_or_create(instance_id=instance_id, defaults={"read_at": Now(), "text": shown})


def ask_console(instance_id: UUID) -> None:
    """Notes that somebody wants to see a machine's console. Who may is the caller's to know."""
    ConsoleExcerpt.objects.update_or_create(instance_id=instance_id, defaults={"asked_at": Now()})


def forget_consoles() -> int:
    """Empties what was kept long enough; how many."""
    old = ConsoleExcerpt.objects.filter(read_at__lt=Now() - CONSOLE_KEPT).exclude(text="")
    return old.update(text="")


def _sign(facts: dict[str, object], salt: str) -> str:
    return signing.dumps(facts, key=settings.ENVIRONMENT.machine_keys[0], salt=salt)


def _facts(token: str, salt: str, instance_id: UUID) -> dict[str, object]:
    """What a token of ours says, where it was signed for this and for this machine. No row is read before."""
    # Every process has the machines' keys and only some the signing key; the salt keeps this use apart from theirs.
    newest = settings.ENVIRONMENT.machine_keys[0]
    older: list[str | bytes] = [*settings.ENVIRONMENT.machine_keys[1:]]
    try:
        facts = signing.loads(token, key=newest, fallback_keys=older, salt=salt) if len(token) <= 500 else None
    except (signing.BadSignature, ValueError):
        facts = None
    if not isinstance(facts, dict) or facts.get("machine") != instance_id.hex:
        raise PassRefused(_("This token is not valid here."))
    _not_too_often(_hash(token))
    return facts


def _ip(text: str) -> str | None:
    """An address as it can be kept; behind a Unix socket there may be none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _not_too_often(key: str) -> None:
    """Counted for each token and process, after the token proved to be ours: nobody can use up another's calls."""
    calls = cache.get_or_set(f"guest:{key}", 0, 60) or 0
    with contextlib.suppress(ValueError):  # the minute ended between the two lines
        calls = cache.incr(f"guest:{key}")
    if calls > CALLS_A_MINUTE:
        raise TooOften(_("This machine calls too often."), way_out=_("Wait a minute."))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
