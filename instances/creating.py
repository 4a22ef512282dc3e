"""Making exactly one machine: the port first, the intent committed, one POST, and what it answered.

A request may be executed after its client gave it up, so an intent without an answer is waited out (`pace().quiet`)
before anything is made again. See docs/decisions/0003 and 0007.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db.models.functions import Now
from django.utils.translation import gettext_noop as _

from experiments import access as data_access
from instances import checkpoints, credentials, guest_reports, pacing, software, transitions, userdata
from instances.checkpoints import checkpoint
from instances.cloud.protocol import (
    CloudDenied,
    CloudError,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
    Port,
    PortTaken,
    Server,
    ServerSpec,
    ServerStatus,
    Service,
)
from instances.lifecycle import Seen
from instances.models import Instance
from instances.outcomes import Outcome, Visit, failing, saying, silence, why
from instances.pace import pace
from instances.transitions import Event
from visa.errors import Refusal

log = logging.getLogger(__name__)

#: a full cloud is asked again after about so many of the usual soon
FULL_TRIES: Final = 45


class _FencedOut(Exception):
    """The claim was lost: forget everything, undo nothing."""


def quiet(now: datetime, *intents: datetime | None) -> bool:
    """Whether a create without an answer is still younger than the longest time it may take effect."""
    return any(since is not None and now - since < pace().quiet for since in intents)


def create(visit: Visit, sighted: Mapping[str, object]) -> Outcome | None:
    """Makes the machine, or says why not. None where the claim was lost. Raises NotNow."""
    instance = visit.claim.instance
    refused = _withdrawn(instance)
    if refused is not None:
        return failing({**sighted, "admitted_at": None}, *refused)
    try:
        secret, sealed = _secret_of(instance)
        token = guest_reports.draw(instance.id, attempt=instance.attempt + 1)
        spec = _spec(instance, token)
    except (userdata.Unrenderable, InvalidToken) as error:
        words = _("This machine cannot be described to the cloud. Tell your support.")
        return failing({**sighted, "admitted_at": None}, "unrenderable", words, str(error) or type(error).__name__)
    visit.orders(*pacing.FOR_CREATES)
    try:
        port = _port(visit)
        if port is None:
            return Outcome(again_in=pace().soon, changes=sighted)
        # A pass for each attempt: of two machines of a doubled create, each has its own.
        guest_reports.issue(instance.id, token)
        intent = {
            "port_id": port.id,
            "port_intent_at": None,
            "attempt": instance.attempt + 1,
            "intent_at": Now(),
            "desktop_secret": sealed,
            "desktop_certificate": secret.certificate,
        }
        return _post(visit, _on(spec, port), intent, sighted)
    except _FencedOut:
        return None
    except CloudError as error:
        # Of the port: the machine itself was not asked for.
        visit.unanswered(error)
        return _waits(instance, error, sighted)


def _post(visit: Visit, spec: ServerSpec, intent: Mapping[str, object], sighted: Mapping[str, object]) -> Outcome:
    """Intent first, committed; then one POST; then what it answered."""
    instance = visit.claim.instance
    if visit.claim.spent:
        # Too much of the lease is gone to order anything under it; the next claim finds the port.
        return Outcome(again_in=pace().soon, changes={**sighted, "port_id": spec.port_id, "port_intent_at": None})
    if not transitions.write(visit.claim, intent):
        raise _FencedOut
    checkpoint(checkpoints.INTENT_COMMITTED)
    known = {**sighted, "port_id": spec.port_id, "port_intent_at": None}
    try:
        server = _created(visit, spec)
    except CloudUnreachable as error:
        visit.unanswered(error)
        if error.unsent:
            return _waits(instance, error, {**known, "intent_at": None})
        # It may have been executed. The intent stays, and with it the quiet period.
        return _waits(instance, error, known)
    except PortTaken as error:
        # A server is on it: the next look finds which.
        log.warning("instance %s finds its port taken: %s", instance.id, error)
        again = pace().on_its_way(visit.claim.now - instance.step_since)
        return Outcome(again_in=again, changes={**known, "intent_at": None})
    except (CloudFull, CloudDenied) as error:
        visit.unanswered(error)
        return _waits(instance, error, {**known, "intent_at": None})
    except CloudRefused as error:
        words = _("The cloud refused to make this machine. Tell your support.")
        return failing({**known, "intent_at": None, "admitted_at": None}, "cloud_refused", words, str(error))
    checkpoint(checkpoints.SERVER_ACCEPTED)
    return _made(visit, server, known)


def _created(visit: Visit, spec: ServerSpec) -> Server:
    """The POST. Whatever Nova answers to it, yes or no, it has found image and port. Raises CloudError."""
    try:
        server = visit.cloud.create(spec)
    except CloudUnreachable:
        raise
    except CloudError as error:
        visit.heard |= {Service.NOVA, *pacing.FOR_CREATES} if error.service is Service.NOVA else {error.service}
        raise
    visit.heard |= {Service.NOVA, *pacing.FOR_CREATES}
    return server


def _made(visit: Visit, server: Server, known: Mapping[str, object]) -> Outcome:
    seen = Seen.BUILDING if server.status in {ServerStatus.BUILD, ServerStatus.UNKNOWN} else Seen.BOOTING
    made = {
        **known,
        "server_id": server.id,
        "had_server": True,
        "seen": seen,
        "seen_at": Now(),
        "step_since": Now(),
        "intent_at": None,
        "missed": 0,
        "failures": 0,
        **(silence() if not visit.claim.instance.reason_code.startswith("retry_") else {}),
    }
    if seen is Seen.BOOTING:
        made["admitted_at"] = None
    events = (Event(kind=f"seen.{seen}"),)
    return Outcome(again_in=pace().making, changes=made, events=events, then=checkpoints.ID_SAVED)


def _waits(instance: Instance, error: CloudError, changes: Mapping[str, object]) -> Outcome:
    """It was not made, and will be tried again. Who waits for room does not keep the place of another."""
    again = pacing.backed_off(instance.failures)
    more: dict[str, object] = {"failures": instance.failures + 1, **saying(why(error), str(error))}
    if isinstance(error, CloudFull):
        more["admitted_at"] = None
        again = pacing.spread(pace().soon * FULL_TRIES)
    elif isinstance(error, CloudRefused) and not isinstance(error, CloudDenied):
        words = _("The cloud refused to make this machine. Tell your support.")
        return failing({**changes, "admitted_at": None}, "cloud_refused", words, str(error))
    return Outcome(again_in=again, changes={**changes, **more})


def _port(visit: Visit) -> Port | None:
    """The machine's port: the one there is, or a new one. None where one may still come of an unanswered order.

    Raises CloudError, NotNow, _FencedOut.
    """
    instance = visit.claim.instance
    unique = visit.cloud.unique_ports
    if not unique and (instance.port_intent_at is not None or instance.port_id is not None):
        # A second order could make a second port: look first.
        kept = _kept(visit)
        if kept is not None:
            return kept
        if quiet(visit.claim.now, instance.port_intent_at):
            return None
    cloud = visit.orders()
    if not unique and not transitions.write(visit.claim, {"port_intent_at": Now()}):
        raise _FencedOut
    try:
        port = cloud.create_port(instance.id)
    except CloudError as error:
        definite = not isinstance(error, CloudUnreachable) or error.unsent
        if not unique and definite and not transitions.write(visit.claim, {"port_intent_at": None}):
            raise _FencedOut from error
        raise
    checkpoint(checkpoints.PORT_CREATED)
    visit.heard.add(Service.NEUTRON)
    return port


def _kept(visit: Visit) -> Port | None:
    """Of the ports there are: the one in use, or the oldest; the others are deleted."""
    ports = visit.cloud.find_ports(visit.claim.instance.id)
    visit.heard.add(Service.NEUTRON)
    if not ports:
        return None
    kept = next((port for port in ports if port.server_id), ports[0])
    for port in ports:
        if port.id != kept.id:
            log.warning("instance %s has a surplus port %s; it is deleted", visit.claim.instance.id, port.id)
            visit.orders().delete_port(port.id)
    return kept


def _withdrawn(instance: Instance) -> tuple[str, str] | None:
    """Why it may not be made any more: what was offered and open at the click may have been withdrawn since."""
    if not instance.flavour.enabled:
        return "flavour_withdrawn", _("This size is no longer offered. Delete this machine and choose another.")
    if not instance.image.enabled:
        return "image_withdrawn", _("This software is no longer offered. Delete this machine and choose another.")
    try:
        if instance.dataset_id is not None:
            data_access.still_launchable(instance.owner, instance.dataset_id)
    except Refusal as refusal:
        return "data_withdrawn", refusal.message
    return None


def _secret_of(instance: Instance) -> tuple[userdata.DesktopSecret, str]:
    """The machine's own secret and its sealed form: made at the first attempt, the same ever after."""
    keys = settings.ENVIRONMENT.machine_keys
    if instance.desktop_secret:
        return credentials.unseal(instance.desktop_secret, keys), instance.desktop_secret
    secret = credentials.generate(_hostname(instance))
    return secret, credentials.seal(secret, keys)


def _hostname(instance: Instance) -> str:
    return f"visa-{instance.id.hex[:12]}"


def _spec(instance: Instance, token: str) -> ServerSpec:
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
                source=data.software_source,
                target=data.software_target,
                fstype=data.software_fstype,
                options=options,
                holds=userdata.Holds.SOFTWARE,
            )
        )
    machine = userdata.Machine(
        instance_id=instance.id,
        hostname=_hostname(instance),
        name=instance.name,
        enrolment=userdata.Enrolment(
            url=settings.ENVIRONMENT.guests.url,
            token=token,
            authority=settings.ENVIRONMENT.guests.authority,
        ),
        mounts=tuple(mounts),
        cvmfs=software.of_site(data),
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
        serial=instance.serial,
    )


def _on(spec: ServerSpec, port: Port) -> ServerSpec:
    return replace(spec, port_id=port.id)
