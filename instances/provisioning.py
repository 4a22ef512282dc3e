"""Worker side: bring one instance one step nearer to what is wanted.

Claim, look at the cloud, decide, take that one step, write back under the fence. Knows the cloud only as a protocol.
Called by tasks and by the `run_reconciler` process alike; calls nobody back. Any worker, at any time, can look at a
row and know what to do, so there is no chain of jobs to lose.
"""

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_noop as _

from experiments import access as data_access
from instances import credentials, grants, transitions, userdata
from instances.cloud.greeting import desktop_answers
from instances.cloud.protocol import (
    Cloud,
    CloudError,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
    Server,
    ServerGone,
    ServerSpec,
    ServerStatus,
)
from instances.lifecycle import DEADLINES, Seen, Step, Wanted, decide, settled
from instances.models import Instance
from instances.transitions import Claim, Event
from quotas import allowances
from visa.errors import Refusal

log = logging.getLogger(__name__)

#: a machine on its way is looked at again after this, a settled one after about a minute
SOON = timedelta(seconds=1)
LATER = timedelta(seconds=60)
LONGEST_WAIT = timedelta(minutes=5)
#: looks in a row that must find no server before one that existed counts as gone
LOOKS_UNTIL_GONE = 2
#: how Nova says that no host has room (nova.exception.NoValidHost)
NO_HOST = "No valid host"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the cloud shows of one instance: the server we keep, and surplus ones of a doubled create."""

    seen: Seen
    server: Server | None = None
    surplus: tuple[Server, ...] = ()
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step leaves behind: fields to write, what to tell, and when to look again."""

    again_in: timedelta
    changes: Mapping[str, object] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    forgotten: bool = False


def advance(cloud: Cloud, instance_id: UUID | None = None) -> timedelta | None:
    """Takes one due row, the given one or the longest waiting, one step further.

    Returns after how long it is due again; None where nothing was due or another worker has it.
    """
    claim = transitions.claim(instance_id)
    if claim is None:
        return None
    instance = claim.instance
    try:
        sight = look(cloud, instance)
        outcome = _step(cloud, claim, sight)
    except CloudError as error:
        outcome = _waiting(instance, error)
    if outcome is None:
        return None  # fenced out: forget everything, undo nothing
    with transaction.atomic():
        if not transitions.release(claim, again_in=outcome.again_in, changes=outcome.changes, events=outcome.events):
            return None
        if outcome.forgotten:
            # The allowance was held while the machine might exist; from this commit on it cannot.
            allowances.release(instance.id)
    return outcome.again_in


def look(cloud: Cloud, instance: Instance) -> Sight:
    """What the cloud shows of an instance now. Silence is UNKNOWN and never ABSENT."""
    try:
        servers = cloud.find(instance.id)
    except CloudUnreachable as error:
        return Sight(seen=Seen.UNKNOWN, detail=str(error))
    if not servers:
        return Sight(seen=Seen.ABSENT)
    sound = [server for server in servers if server.status is not ServerStatus.ERROR]
    kept = (sound or list(servers))[0]
    surplus = tuple(server for server in servers if server.id != kept.id)
    return Sight(seen=_seen_of(kept), server=kept, surplus=surplus, detail=kept.fault)


def _seen_of(server: Server) -> Seen:
    match server.status:
        case ServerStatus.BUILD:
            return Seen.BUILDING
        case ServerStatus.ACTIVE:
            ready = server.desktop is not None and desktop_answers(server.desktop)
            return Seen.READY if ready else Seen.BOOTING
        case ServerStatus.REBOOT:
            return Seen.BOOTING
        case ServerStatus.SHUTOFF:
            return Seen.STOPPED
        case ServerStatus.ERROR:
            return Seen.FAILED
        case _:
            return Seen.UNKNOWN


def _step(cloud: Cloud, claim: Claim, sight: Sight) -> Outcome | None:
    """Decides and takes the one next step."""
    instance, now = claim.instance, timezone.now()
    wanted, seen = Wanted(instance.wanted), sight.seen
    for server in sight.surplus:
        log.warning("instance %s has a surplus server %s; it is deleted", instance.id, server.id)
        cloud.delete(server.id)
    if seen is Seen.ABSENT and instance.had_server and wanted is not Wanted.DELETED and not instance.gone:
        missed = instance.missed + 1
        if missed < LOOKS_UNTIL_GONE:
            # A list that misses a server once proves nothing.
            return Outcome(again_in=SOON, changes={"missed": missed})
    if seen is Seen.ABSENT and _quiet(instance, now):
        # A create that was given up may still be executed: look again, never try again.
        return Outcome(again_in=SOON)
    fresh = sight.seen != instance.seen
    since = now if fresh and seen is not Seen.UNKNOWN else instance.step_since
    overdue = seen is not Seen.UNKNOWN and now - since > DEADLINES[seen]
    rebooting = instance.reboot_wanted_at is not None
    step = decide(
        wanted,
        seen,
        had_server=instance.had_server,
        overdue=overdue,
        reboot=rebooting and instance.reboot_sent_at is None,
    )
    sighted = _sighted(instance, sight, now)
    events = [Event(kind=f"seen.{seen}")] if fresh and seen is not Seen.UNKNOWN else []
    match step:
        case Step.CREATE:
            return _create(cloud, claim, sighted)
        case Step.START | Step.STOP | Step.REBOOT | Step.DELETE:
            return _order(cloud, step, sight, Outcome(again_in=SOON, changes=sighted, events=tuple(events)), now)
        case Step.FORGET:
            grants.revoke_machine(instance.id, cause="deleted")
            gone = {**sighted, "deleted_at": Now(), "server_id": None, "desktop_secret": "", "desktop_certificate": ""}
            return Outcome(again_in=LATER, changes=gone, events=(*events, Event(kind="deleted")), forgotten=True)
        case Step.MARK_GONE:
            if instance.gone:
                return Outcome(again_in=_later(), changes=sighted)
            grants.revoke_machine(instance.id, cause="gone")
            words = _("The machine no longer exists: it was removed outside this platform.")
            changes = {**sighted, "gone": True, "reason_code": "gone", "reason": words}
            return Outcome(again_in=_later(), changes=changes, events=(*events, Event(kind="gone", text=words)))
        case Step.FAIL | Step.DISCARD:
            return _fail(instance, sight, sighted, events)
        case Step.REST | Step.FOLLOW:
            return Outcome(again_in=_later(), changes=sighted, events=tuple(events))
        case Step.WAIT:
            again = SOON if seen is not Seen.UNKNOWN else _backed_off(instance.failures)
            unheard = seen is Seen.UNKNOWN
            if unheard:
                sighted = {**sighted, "failures": instance.failures + 1, **_saying("cloud_silent", sight.detail)}
            if not unheard and settled(wanted, seen):
                again = _later()
            return Outcome(again_in=again, changes=sighted, events=tuple(events))


def _sighted(instance: Instance, sight: Sight, now: datetime) -> dict[str, object]:
    """What a look alone changes in the row."""
    if sight.seen is Seen.UNKNOWN:
        # `seen` keeps the last thing that was really seen; `seen_at` says since when it is old.
        return {}
    changes: dict[str, object] = {"seen": sight.seen, "seen_at": Now(), "missed": 0}
    if sight.seen is not Seen.ABSENT:
        changes |= {"had_server": True, "intent_at": None, "gone": False}
    else:
        changes["missed"] = instance.missed + 1
    if sight.server is not None:
        changes["server_id"] = sight.server.id
        if sight.server.desktop is not None:
            changes |= {"desktop_host": sight.server.desktop.host, "desktop_port": sight.server.desktop.port}
    if sight.seen != instance.seen:
        changes["step_since"] = now
        changes["failures"] = 0
        if not instance.failed:
            changes |= {"reason_code": "", "reason": "", "reason_detail": ""}
    elif instance.reason_code == "cloud_silent":
        changes |= {"failures": 0, "reason_code": "", "reason": "", "reason_detail": ""}
    if sight.seen is Seen.READY:
        changes |= {"failed": False, "reason_code": "", "reason": "", "reason_detail": ""}
        if instance.ready_at is None:
            changes["ready_at"] = now
        if instance.reboot_sent_at is not None and instance.seen != Seen.READY:
            changes |= {"reboot_wanted_at": None, "reboot_sent_at": None}
    return changes


def _create(cloud: Cloud, claim: Claim, sighted: Mapping[str, object]) -> Outcome | None:
    """Intent first, committed; then one POST; then what it answered."""
    instance = claim.instance
    if not instance.flavour.enabled:
        return _failed(
            sighted, "flavour_withdrawn", _("This size is no longer offered. Delete this machine and choose another.")
        )
    if not instance.image.enabled:
        return _failed(
            sighted, "image_withdrawn", _("This software is no longer offered. Delete this machine and choose another.")
        )
    try:
        # Asked again here: what was open at the click may have been withdrawn since.
        if instance.dataset_id is not None:
            data_access.still_launchable(instance.owner, instance.dataset_id)
    except Refusal as refusal:
        return _failed(sighted, "data_withdrawn", refusal.message)
    try:
        secret, sealed = _secret_of(instance)
        spec = _spec(instance, secret)
    except (userdata.Unrenderable, InvalidToken) as error:
        detail = str(error) or type(error).__name__
        return _failed(
            sighted, "unrenderable", _("This machine cannot be described to the cloud. Tell your support."), detail
        )
    intent = {
        "attempt": instance.attempt + 1,
        "intent_at": Now(),
        "desktop_secret": sealed,
        "desktop_certificate": secret.certificate,
    }
    if not transitions.write(claim, intent):
        return None
    try:
        server = cloud.create(spec)
    except CloudFull as error:
        words = _saying("cloud_full", str(error))
        again = _backed_off(instance.failures)
        answered = {"intent_at": None, "failures": instance.failures + 1}
        return Outcome(again_in=again, changes={**sighted, **answered, **words})
    except CloudRefused as error:
        refused = {**sighted, "intent_at": None}
        return _failed(
            refused, "cloud_refused", _("The cloud refused to make this machine. Tell your support."), str(error)
        )
    except CloudUnreachable as error:
        # It may have been executed. The intent stays, and with it the quiet period.
        return Outcome(
            again_in=_backed_off(instance.failures), changes={**sighted, **_saying("cloud_silent", str(error))}
        )
    seen = Seen.BUILDING if server.status in {ServerStatus.BUILD, ServerStatus.UNKNOWN} else Seen.BOOTING
    made = {
        "server_id": server.id,
        "had_server": True,
        "seen": seen,
        "seen_at": Now(),
        "step_since": timezone.now(),
        "intent_at": None,
        "missed": 0,
        "failures": 0,
        **_silence(),
    }
    return Outcome(again_in=SOON, changes=made, events=(Event(kind=f"seen.{seen}"),))


def _order(cloud: Cloud, step: Step, sight: Sight, outcome: Outcome, now: datetime) -> Outcome:
    """One order to an existing server. One that went away meanwhile is seen to be away at the next look."""
    if sight.server is None:
        return outcome
    try:
        match step:
            case Step.START:
                cloud.start(sight.server.id)
            case Step.STOP:
                cloud.stop(sight.server.id)
            case Step.REBOOT:
                cloud.reboot(sight.server.id)
            case _:
                cloud.delete(sight.server.id)
    except ServerGone:
        return outcome
    if step is Step.REBOOT:
        sent = {"reboot_sent_at": now, "seen": Seen.BOOTING, "step_since": now}
        return Outcome(
            again_in=SOON, changes={**outcome.changes, **sent}, events=(*outcome.events, Event(kind="seen.booting"))
        )
    return outcome


def _fail(instance: Instance, sight: Sight, sighted: Mapping[str, object], events: list[Event]) -> Outcome:
    if instance.failed:
        return Outcome(again_in=_later(), changes=sighted, events=tuple(events))
    if sight.seen is Seen.FAILED and NO_HOST in sight.detail:
        code, words = "no_room", _("The cloud had no room for a machine of this size.")
    elif sight.seen is Seen.FAILED:
        code, words = "build_failed", _("The cloud could not make this machine.")
    elif instance.reason_code == "cloud_full":
        code, words = "cloud_full", _("There was no room in the cloud for half an hour.")
    else:
        code, words = "too_slow", _("A step took far longer than it may. The machine may still come up.")
    outcome = _failed(sighted, code, words, sight.detail)
    return Outcome(again_in=outcome.again_in, changes=outcome.changes, events=(*events, *outcome.events))


def _failed(sighted: Mapping[str, object], code: str, words: str, detail: str = "") -> Outcome:
    changes = {**sighted, "failed": True, "reason_code": code, "reason": words, "reason_detail": detail[:1000]}
    return Outcome(again_in=_later(), changes=changes, events=(Event(kind="failed", text=words),))


def _waiting(instance: Instance, error: CloudError) -> Outcome:
    """An order the cloud did not take: wait, say why, and look again before anything else."""
    log.warning("instance %s waits: %s: %s", instance.id, type(error).__name__, error)
    code = "cloud_silent" if isinstance(error, CloudUnreachable) else "cloud_refused"
    changes = {"failures": instance.failures + 1, **_saying(code, str(error))}
    return Outcome(again_in=_backed_off(instance.failures), changes=changes)


_WAITS = {
    "cloud_full": _("The cloud has no room right now; we keep trying."),
    "cloud_silent": _("The cloud does not answer right now; we keep asking. Nothing is lost."),
    "cloud_refused": _("The cloud does not take our order right now; we keep trying."),
}


def _saying(code: str, detail: str) -> dict[str, object]:
    return {"reason_code": code, "reason": _WAITS[code], "reason_detail": detail[:1000]}


def _silence() -> dict[str, object]:
    return {"reason_code": "", "reason": "", "reason_detail": ""}


def _quiet(instance: Instance, now: datetime) -> bool:
    """Whether a create without an answer is still younger than the longest time it may take effect."""
    cloud = settings.ENVIRONMENT.cloud
    if cloud is None or instance.intent_at is None:
        return False
    return now - instance.intent_at < timedelta(seconds=cloud.quiet_seconds)


def _backed_off(failures: int) -> timedelta:
    """2 s × 2^failures, at most five minutes, with full jitter."""
    longest = min(LONGEST_WAIT, timedelta(seconds=2 * 2 ** min(failures, 10)))
    return SOON + longest * random.random()  # noqa: S311 - spreads load, guards nothing


def _later() -> timedelta:
    return LATER * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


def _secret_of(instance: Instance) -> tuple[userdata.DesktopSecret, str]:
    """The machine's own secret and its sealed form: made at the first attempt, the same ever after."""
    keys = settings.ENVIRONMENT.machine_keys
    if instance.desktop_secret:
        return credentials.unseal(instance.desktop_secret, keys), instance.desktop_secret
    secret = credentials.generate(_hostname(instance))
    return secret, credentials.seal(secret, keys)


def _hostname(instance: Instance) -> str:
    return f"visa-{instance.id.hex[:12]}"


def _spec(instance: Instance, secret: userdata.DesktopSecret) -> ServerSpec:
    data, size = settings.ENVIRONMENT.data, instance.specification["size"]
    mounts = [
        userdata.MountPoint(
            source=mount["source"], target=mount["target"], fstype=mount["fstype"], options=tuple(mount["options"])
        )
        for mount in instance.specification.get("mounts", [])
    ]
    if data.software_source:
        options = userdata.BIND_OPTIONS if data.software_fstype == "none" else userdata.NFS_OPTIONS
        mounts.append(
            userdata.MountPoint(
                source=data.software_source, target=data.software_target, fstype=data.software_fstype, options=options
            )
        )
    cvmfs = None
    if data.cvmfs_repositories:
        cvmfs = userdata.Cvmfs(
            repositories=data.cvmfs_repositories, proxy=data.cvmfs_proxy, quota_mb=data.cvmfs_quota_mb
        )
    machine = userdata.Machine(
        instance_id=instance.id,
        hostname=_hostname(instance),
        name=instance.name,
        secret=secret,
        mounts=tuple(mounts),
        cvmfs=cvmfs,
    )
    return ServerSpec(
        instance_id=instance.id,
        image=instance.image.cloud_name,
        flavour=instance.flavour.cloud_name,
        vcpus=size["cores"],
        memory_mib=size["memory_mib"],
        disk_gib=size["disk_gib"],
        gpus=size["gpus"],
        user_data=userdata.render(machine),
    )
