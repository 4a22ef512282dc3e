"""What people are told by mail of their machines, and administrators of the site: few things, each once.

`follow` and its like put ids into the outbox, in the transaction of what happened; nobody waits for a mail server. The
words are made when the mail is sent, from what is so then: what is no longer so is not told.

Drivers say `turn` over and over: it notes that they live, and tells which part of the site itself does not.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Now
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from instances import releases, sweeps
from instances.lifecycle import Seen, Wanted
from instances.models import Instance, InstanceEvent, ServiceState, Sweep, SweepHold, Watch
from instances.pace import pace
from instances.sweeps import Alarm, Part
from quotas import allowances
from quotas.arithmetic import DIMENSIONS, Resources
from quotas.models import Reservation
from visa.accounts.claims import Role
from visa.accounts.models import User
from visa.outbox import mail, outbox, refusals

#: a launch that took longer is worth a mail: whoever waited for it has gone elsewhere
LONG_LAUNCH = timedelta(minutes=5)
#: a machine that became ready longer ago is no news
NEWS = timedelta(minutes=30)
#: what an outage may last before administrators hear of it
LONG_OUTAGE = timedelta(minutes=10)
#: what comes and goes all the time is told of this often
REST = timedelta(hours=1)
#: of many counters that are wrong a mail names the first
NAMED: Final = 5

MAIL = "mail"
ADMINISTRATORS = "administrators"


class Notice(StrEnum):
    """What is told: the first four to a machine's owner, the others to every administrator."""

    FAILED = "failed"
    GONE = "gone"
    READY = "ready"
    REMOVED = "removed"
    SITE_FULL = "site_full"
    STUCK = "stuck"
    SWEPT = "swept"
    SWEEP_HELD = "sweep_held"
    CLOUD_SILENT = "cloud_silent"
    PASS_REUSED = "pass_reused"  # noqa: S105 - a name, no secret
    PART_SILENT = "part_silent"
    WRITES_REFUSED = "writes_refused"
    BOOKS_WRONG = "books_wrong"


#: what of a machine's story somebody hears of
OF_EVENTS = {
    "failed": Notice.FAILED,
    "gone": Notice.GONE,
    "seen.ready": Notice.READY,
    "delete.stuck": Notice.STUCK,
    "cloud_full": Notice.SITE_FULL,
    "guest.refused": Notice.PASS_REUSED,
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """A mail's words. `link` is a whole address."""

    subject: str
    lines: tuple[str, ...]
    to_do: str
    link: str


# --- what happened: ids into the outbox --------------------------------------------------------------------------


def follow(instance_id: UUID, kinds: Iterable[str]) -> None:
    """Tells of these events of a machine, where they are worth a mail. Call it in the events' transaction."""
    notices = [OF_EVENTS[kind] for kind in kinds if kind in OF_EVENTS]
    if not notices:
        return
    instance = Instance.objects.select_related("owner").get(id=instance_id)
    for notice in notices:
        tell(instance, notice)


def tell(instance: Instance, notice: Notice) -> None:
    """Tells of one machine, once for each wish; that the site is full, once a day, by the first machine that waits."""
    now = timezone.now()
    match notice:
        case Notice.READY:
            if instance.ready_at is None or now - instance.ready_at > NEWS:
                return
            if instance.ready_at - instance.created_at <= LONG_LAUNCH:
                return
            key = f"{notice}:{instance.id}"
        case Notice.FAILED:
            key = f"{notice}:{instance.id}:{instance.wanted_at.isoformat()}"
        case Notice.SITE_FULL:
            key = f"{notice}:{now.date()}"
        case _:
            key = f"{notice}:{instance.id}"
    if notice in {Notice.FAILED, Notice.GONE, Notice.READY}:
        _put(key, notice, instance.id, to=instance.owner)
    else:
        _put(key, notice, instance.id)


def tell_removed(instance: Instance) -> None:
    """Tells the owner that somebody else deletes their machine, and why. Call it in the wish's transaction."""
    _put(f"{Notice.REMOVED}:{instance.id}", Notice.REMOVED, instance.id, to=instance.owner)


def tell_swept(sweep: Sweep) -> None:
    """Tells administrators that a sweep deleted something: once a day, by the first that did."""
    _put(f"{Notice.SWEPT}:{sweep.at.date()}", Notice.SWEPT, sweep.pk)


def tell_held(hold: SweepHold) -> None:
    """Tells administrators that sweeps only report until they are released."""
    _put(f"{Notice.SWEEP_HELD}:{hold.pk}", Notice.SWEEP_HELD, hold.pk)


def tell_silent(services: Iterable[ServiceState]) -> None:
    """Tells administrators which of these services of the cloud have not answered for `LONG_OUTAGE`.

    May be called all the time: while they answer it asks the database nothing.
    """
    now = timezone.now()
    for one in services:
        if one.opened_at is not None and now - one.opened_at > LONG_OUTAGE:
            key = f"{Notice.CLOUD_SILENT}:{one.service}:{one.opened_at.isoformat()}"
            if not outbox.has(key):
                _put(key, Notice.CLOUD_SILENT, one.service)


def tell_unbalanced() -> None:
    """Tells administrators that allowances do not add up: once for each set of people and amounts in which they do not.

    Call it where `reconciliation.compare_allowances` found something. What differs stays the same while people launch
    and delete, so that their doing so is no news.
    """
    wrong = sorted(_unbalanced())
    if wrong:
        digest = hashlib.sha256("\n".join(wrong).encode()).hexdigest()[:20]
        _put_once(f"{Notice.BOOKS_WRONG}:", digest, Notice.BOOKS_WRONG, digest, now=sweeps.database_now())


def _put_once(beginning: str, occurrence: str, notice: Notice, about: str, *, now: datetime) -> None:
    """Tells administrators of this occurrence once; where the last of its kind was told just now, not yet."""
    if outbox.has(beginning + occurrence):
        return
    last = outbox.last(beginning, kind=ADMINISTRATORS)
    if last is None or now - last > REST:
        _put(beginning + occurrence, notice, about)


def _put(key: str, notice: Notice, about: object, *, to: User | None = None) -> None:
    payload = {"notice": str(notice), "about": str(about)}
    if to is None:
        outbox.put(key=key, kind=ADMINISTRATORS, payload=payload)
    else:
        outbox.put(key=key, kind=MAIL, payload={**payload, "to": str(to.public_id)})


# --- the site itself ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Turns:
    """The turns of this process, on its monotonic clock: since when they come without a gap, and the last."""

    began: float = float("-inf")
    last: float = float("-inf")


_turns = _Turns()


def turn(driver: Part) -> None:
    """Notes that this driver takes its regular turn, and tells administrators what of the site does not go.

    May be called all the time: each `Pace.turn` it costs an UPDATE and a SELECT, and nothing in between. Code that a
    migration outran drives nothing, and so takes no turn.
    """
    now = time.monotonic()
    if now - _turns.last < pace().turn.total_seconds() or releases.outdated():
        return
    if now - _turns.last > sweeps.missing().total_seconds():
        # This process has just begun, or was away itself, with all others perhaps: as in an upgrade.
        _turns.began = now
    _turns.last = now
    _note_turn(driver)
    alarms = sweeps.alarms()
    if any(alarm.part is Part.REDIS for alarm in alarms):
        # No tick comes without it: that is one fault, and when it is over the tick has its time to come.
        _turns.began = now
    watched = now - _turns.began >= sweeps.missing().total_seconds()
    for alarm in alarms:
        if watched or alarm.part is Part.REDIS:
            _tell_alarm(alarm)
    _tell_refused()


def _note_turn(driver: Part) -> None:
    changes: dict[str, Any] = {f"{driver}_at": Now()}
    said = refusals.redis_says()
    if said:
        changes["redis_silent_since"] = Coalesce(F("redis_silent_since"), Now())
    elif driver is Part.TICK or said is not None:
        # A tick has come by way of Redis: it cannot be silent, whoever said so.
        changes["redis_silent_since"] = None
    if not Watch.objects.update(**changes):
        Watch.objects.bulk_create([Watch()], ignore_conflicts=True)
        Watch.objects.update(**changes)


def _tell_alarm(alarm: Alarm) -> None:
    """One occurrence is one `since`. What is silent, back and silent again is told of once an hour."""
    beginning = f"{Notice.PART_SILENT}:{alarm.part}:"
    _put_once(beginning, alarm.since.isoformat(), Notice.PART_SILENT, alarm.part, now=alarm.at)


def _tell_refused() -> None:
    """Tells administrators what the database refused, now that it can be told. Where nothing was, it asks nothing."""
    one = refusals.over(pace().refused)
    if one is None:
        return
    now, here = sweeps.database_now(), time.monotonic()
    began, ended = (now - timedelta(seconds=here - at) for at in (one.began, one.last))
    told = outbox.last(f"{Notice.WRITES_REFUSED}:", kind=ADMINISTRATORS)
    if told is not None and told < began and now - told <= REST:
        return  # another so soon waits, and what is refused until then is told with it
    if told is None or told < began:
        about = f"{one.state}/{began.isoformat(timespec='seconds')}/{ended.isoformat(timespec='seconds')}"
        _put(f"{Notice.WRITES_REFUSED}:{began.isoformat()}", Notice.WRITES_REFUSED, about)
    # Otherwise another process, which was refused as well, has told it.
    refusals.forget(one)


def _unbalanced() -> dict[str, str]:
    """What does not add up: each sentence by what it is known again."""
    found = {}
    for one in allowances.differences():
        more = one.used - one.reserved
        key = ":".join([one.person, *(str(getattr(more, name)) for name in DIMENSIONS)])
        wrong = [name for name in DIMENSIONS if getattr(more, name)]
        found[key] = _("%(who)s is counted %(counted)s and has reserved %(reserved)s.") % {
            "who": one.person,
            "counted": _amounts(wrong, one.used),
            "reserved": _amounts(wrong, one.reserved),
        }
    live = Instance.objects.filter(deleted_at=None).values("id")
    for held in Reservation.objects.exclude(holder__in=live).order_by("holder")[:100]:
        found[str(held.holder)] = _("%(who)s has something reserved for %(id)s, which is no machine.") % {
            "who": held.person,
            "id": held.holder,
        }
    return found


def _amounts(names: Iterable[str], amounts: Resources) -> str:
    return ", ".join(allowances.amount(name, getattr(amounts, name)) for name in names)


# --- couriers ----------------------------------------------------------------------------------------------------


def to_administrators(key: str, payload: Mapping[str, object]) -> str:
    """One mail for each administrator, so that one bad address costs the others nothing."""
    people = User.objects.filter(is_active=True, roles__contains=[Role.ADMINISTRATOR.value]).order_by("pk")
    with transaction.atomic():
        for person in people:
            one = {"notice": str(payload["notice"]), "about": str(payload["about"]), "to": str(person.public_id)}
            outbox.put(key=f"{key}:{person.public_id}", kind=MAIL, payload=one)
    return ""


def by_mail(key: str, payload: Mapping[str, object]) -> str:
    """Sends one mail, or says why none is needed. Raises what `mail.send` raises."""
    if not mail.is_on():
        return "no mail server is configured"
    person = User.objects.filter(public_id=str(payload["to"]), is_active=True).first()
    if person is None or not person.email:
        return "the person has no address"
    # Nobody's language is known here: the site's own, not that of whoever asked this process last.
    with translation.override(settings.LANGUAGE_CODE):
        words = _WORDS[Notice(str(payload["notice"]))](str(payload["about"]))
        if words is None:
            return "no longer so"
        told = {"words": words, "site": settings.SITE, "language": settings.LANGUAGE_CODE}
        letter = mail.Letter(
            address=person.email,
            subject=words.subject,
            text=render_to_string("mail/notice.txt", told),
            html=render_to_string("mail/notice.html", told),
        )
    mail.send(key, letter)
    return ""


# --- words -------------------------------------------------------------------------------------------------------


def _failed(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about, failed=True, deleted_at=None).exclude(wanted=Wanted.DELETED).first()
    if instance is None:
        return None
    return Words(
        subject=_("Your machine “%(name)s” has failed") % {"name": instance.name},
        lines=(_(instance.reason) if instance.reason else "", _("The data it was made for are untouched.")),
        to_do=_("Open its page: it says what can be done."),
        link=_page_of(instance),
    )


def _gone(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about, gone=True, deleted_at=None).exclude(wanted=Wanted.DELETED).first()
    if instance is None:
        return None
    return Words(
        subject=_("Your machine “%(name)s” no longer exists") % {"name": instance.name},
        lines=(
            _("It was removed outside this platform, and what stood only on its own disk is gone with it."),
            _("The data it was made for are untouched."),
        ),
        to_do=_("Delete it on its page, and launch again."),
        link=_page_of(instance),
    )


def _removed(about: str) -> Words | None:
    why = InstanceEvent.objects.filter(instance_id=UUID(about), kind="reason").select_related("by", "instance").last()
    if why is None or why.by is None:
        return None
    return Words(
        subject=_("Your machine “%(name)s” is being deleted") % {"name": why.instance.name},
        lines=(
            _("%(who)s, who looks after this site, deletes it: “%(why)s”") % {"who": why.by.name, "why": why.text},
            _("What stood only on its own disk is gone with it. The data it was made for are untouched."),
        ),
        to_do=_("If you still need a machine, launch a new one."),
        link=_site(),
    )


def _ready(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about, seen=Seen.READY, wanted=Wanted.RUNNING, deleted_at=None).first()
    if instance is None or instance.ready_at is None:
        return None
    minutes = round((instance.ready_at - instance.created_at).total_seconds() / 60)
    took = ngettext("It took %(minutes)d minute.", "It took %(minutes)d minutes.", minutes) % {"minutes": minutes}
    return Words(
        subject=_("Your machine “%(name)s” is ready") % {"name": instance.name},
        lines=(_("Its desktop answers."), took),
        to_do=_("Open its page and connect."),
        link=_page_of(instance),
    )


def _site_full(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about).first()
    if instance is None:
        return None
    return Words(
        subject=_("The cloud has no room for more machines"),
        lines=(
            _("Machines wait, the first of them is “%(name)s”.") % {"name": instance.name},
            instance.reason_detail[:300] if instance.reason_code == "cloud_full" else "",
            _("They start by themselves as soon as there is room. Today you are told this only once."),
        ),
        to_do=_("Raise our project's quota at the cloud, or ask people to delete machines they do not use."),
        link=_page_of(instance),
    )


def _stuck(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about, wanted=Wanted.DELETED, deleted_at=None).first()
    if instance is None:
        return None
    return Words(
        subject=_("The cloud does not delete “%(name)s”") % {"name": instance.name},
        lines=(
            _("It was asked more than ten minutes ago, and is asked again and again."),
            _("What the machine takes stays reserved meanwhile, since it may still be there."),
            _("The server's id in the cloud: %(id)s") % {"id": instance.server_id or "–"},
        ),
        to_do=_("Look at this server in the cloud, and delete it there."),
        link=_page_of(instance),
    )


def _swept(about: str) -> Words | None:
    sweep = Sweep.objects.filter(pk=about).first()
    if sweep is None:
        return None
    return Words(
        subject=_("Something was deleted from the cloud that belonged to no machine"),
        lines=(
            ngettext(
                "The sweep deleted %(number)d thing that carried our tag and had no row.",
                "The sweep deleted %(number)d things that carried our tag and had no row.",
                sweep.swept,
            )
            % {"number": sweep.swept},
            _("Nothing should be left behind, so this is a fault to explain. Today you are told this only once."),
        ),
        to_do=_("Compare the sightings with the logs of that time."),
        link=_sweeps(),
    )


def _sweep_held(about: str) -> Words | None:
    hold = SweepHold.objects.filter(pk=about, released_at=None).first()
    if hold is None:
        return None
    return Words(
        subject=_("Sweeps are held and only report"),
        lines=(_(hold.why), _("Nothing left behind in the cloud is deleted until an administrator releases them.")),
        to_do=_("Look at what the last sweep found, and release it if that is right."),
        link=_sweeps(),
    )


def _cloud_silent(about: str) -> Words | None:
    state = ServiceState.objects.filter(service=about).exclude(opened_at=None).first()
    if state is None or state.opened_at is None:
        return None
    return Words(
        subject=_("The cloud does not answer"),
        lines=(
            _("Its service %(service)s has not answered since %(since)s.")
            % {"service": state.service, "since": _moment(state.opened_at)},
            _("No machine fails for it: everything waits and goes on by itself."),
        ),
        to_do=_("See whether the cloud runs and can be reached from here; “doctor” tells more."),
        link=_site(),
    )


def _pass_reused(about: str) -> Words | None:
    instance = Instance.objects.filter(id=about, deleted_at=None).first()
    if instance is None:
        return None
    return Words(
        subject=_("Somebody tried to fetch the secrets of “%(name)s” a second time") % {"name": instance.name},
        lines=(
            _("They were refused: a machine's token is good for one use."),
            _("Any program in the machine can find the token and try; that alone means little."),
            _("Where the machine's own page says that this platform refuses it, somebody else was first."),
        ),
        to_do=_(
            "Look at the machine's page; if this platform refuses it, delete it and find out who read its user-data."
        ),
        link=_page_of(instance),
    )


def _part_silent(about: str) -> Words | None:
    alarm = next((one for one in sweeps.alarms() if one.part == about), None)
    if alarm is None:
        return None
    subject, meanwhile, to_do = {
        Part.TICK: (
            _("The timetable has stopped"),
            _("The reconciler drives all machines meanwhile. Sessions that have lasted too long are not ended."),
            _("Start beat and a worker; “doctor” tells which of the two is missing."),
        ),
        Part.RECONCILER: (
            _("The reconciler has stopped"),
            _("The workers drive all machines meanwhile; nobody would where Redis is away."),
            _("Look into its log, and start it: manage.py run_reconciler."),
        ),
        Part.REDIS: (
            _("Redis takes nothing"),
            _("The reconciler drives all machines meanwhile, and pages refresh only now and then. Nothing is lost."),
            _("See whether it runs and has memory left; the reconciler's log has its own words."),
        ),
    }[alarm.part]
    since = _("It has been so since %(since)s.") % {"since": _moment(alarm.since)}
    return Words(subject=subject, lines=(alarm.words, since, meanwhile), to_do=to_do, link=_site())


def _writes_refused(about: str) -> Words | None:
    state, began, ended = about.split("/")
    why = {refusals.DISK_FULL: _("There was no room on its disk."), refusals.READ_ONLY: _("It was read-only.")}
    return Words(
        subject=_("The database took nothing for a while"),
        lines=(
            _("From %(began)s to %(ended)s it refused what was to be stored.")
            % {"began": _moment(datetime.fromisoformat(began)), "ended": _moment(datetime.fromisoformat(ended))},
            why.get(state, ""),
            _("What was accepted before is not lost; whoever asked for something meanwhile was told to try again."),
        ),
        to_do=_("See that it has room, and that it stays so; the logs of that time tell what was refused."),
        link=_site(),
    )


def _books_wrong(about: str) -> Words | None:
    sentences = list(_unbalanced().values())
    if not sentences:
        return None
    more = len(sentences) - NAMED
    return Words(
        subject=_("Allowances do not add up"),
        lines=(
            *sentences[:NAMED],
            ngettext("And %(number)d more.", "And %(number)d more.", more) % {"number": more} if more > 0 else "",
            _("What is counted should be the sum of what machines hold. This is a fault of the platform."),
        ),
        to_do=_(
            "Tell whoever maintains this software. Nothing repairs it by itself; the drivers' logs name all of them."
        ),
        link=_site(),
    )


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _page_of(instance: Instance) -> str:
    return settings.SITE.url + reverse("instances:instance-detail", args=[instance.id])


def _sweeps() -> str:
    return settings.SITE.url + reverse("instances:reconciliation")


def _site() -> str:
    return settings.SITE.url + reverse("home")


_WORDS: dict[Notice, Callable[[str], Words | None]] = {
    Notice.FAILED: _failed,
    Notice.GONE: _gone,
    Notice.READY: _ready,
    Notice.REMOVED: _removed,
    Notice.SITE_FULL: _site_full,
    Notice.STUCK: _stuck,
    Notice.SWEPT: _swept,
    Notice.SWEEP_HELD: _sweep_held,
    Notice.CLOUD_SILENT: _cloud_silent,
    Notice.PASS_REUSED: _pass_reused,
    Notice.PART_SILENT: _part_silent,
    Notice.WRITES_REFUSED: _writes_refused,
    Notice.BOOKS_WRONG: _books_wrong,
}
