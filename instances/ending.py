"""Ending a machine at the cloud: servers until none is listed, then its ports and volumes, and only then its row.

Whatever may still exist is still counted: the allowance is given back when nothing is left, and not before.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from django.db.models.functions import Now
from django.utils.translation import gettext_noop as _

from instances import checkpoints, grants, holds, pacing, transitions
from instances.checkpoints import checkpoint
from instances.cloud.protocol import CloudError, Server, ServerGone, Service
from instances.lifecycle import BUILDS, STUCK_BUILDS, Seen, Wanted
from instances.models import Instance
from instances.outcomes import Outcome, Sight, Visit, failing, saying, silence
from instances.pace import pace
from instances.transitions import Event

log = logging.getLogger(__name__)

#: how Nova says that no host has room (nova.exception.NoValidHost)
NO_HOST: Final = "No valid host"

#: why a build was given up, for people
LOST_WORDS: Final = {
    "no_room": _("The cloud had no room for a machine of this size."),
    "build_failed": _("The cloud could not make this machine."),
    "too_slow": _("The cloud took far too long to make this machine."),
}


def delete(visit: Visit, sight: Sight, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """Orders the deletion of everything that is listed, again and again until nothing is."""
    age = visit.claim.now - visit.claim.instance.wanted_at
    _order(visit, sight, again=age > pace().stuck)
    return Outcome(again_in=pace().on_its_way(age), changes=changes, events=tuple(events))


def overdue(visit: Visit, outcome: Outcome) -> Outcome:
    """The outcome, with an alarm where a deletion takes too long, whatever holds it up. Once for each wish.

    Of a service that does not answer anybody administrators are told by itself.
    """
    instance, age = visit.claim.instance, visit.claim.now - visit.claim.instance.wanted_at
    ending = instance.wanted == Wanted.DELETED and "deleted_at" not in outcome.changes
    if not ending or age <= pace().stuck or instance.alarmed_at is not None or visit.gate.silent:
        return outcome
    log.error("instance %s is still there %s after its deletion was asked for", instance.id, age)
    told = (*outcome.events, Event(kind="delete.stuck", verdict=True))
    return replace(outcome, changes={**outcome.changes, "alarmed_at": visit.claim.now}, events=told)


def forget(visit: Visit, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """No server is listed any more: the known one is asked for by its id, then ports and volumes go, then the row.

    Raises NotNow.
    """
    instance, now = visit.claim.instance, visit.claim.now
    cloud = visit.orders(Service.NEUTRON, Service.CINDER)
    ports = cloud.find_ports(instance.id)
    visit.heard.add(Service.NEUTRON)
    # A list may miss a server; its id does not lie, and a port knows whose it is.
    known = {instance.server_id or "", *(port.server_id for port in ports)} - {""}
    hidden = sorted(one for one in known if cloud.known(one))
    if instance.gone and instance.server_id in hidden:
        return let_be(visit)
    if hidden:
        for one in hidden:
            visit.orders().delete(one)
        return Outcome(again_in=pace().on_its_way(now - instance.wanted_at), changes=changes, events=tuple(events))
    for port in ports:
        visit.orders().delete_port(port.id)
    for volume in [one for one in cloud.volumes() if one.instance_id == instance.id]:
        visit.orders().delete_volume(volume.id)
    return _closed(visit, changes, events)


def came_back(instance: Instance, sight: Sight) -> bool:
    """Whether the very server is seen that somebody worked on, not only one that was made beside it."""
    return instance.server_id in {server.id for server in _all(sight)}


def let_be(visit: Visit) -> Outcome:
    """It was called gone, its row is wished away, and it is there: somebody's work may be on it.

    Nobody who wished that knew of it, so nothing of it is deleted. The row goes as one whose machine was gone, and what
    stands at the cloud is shown to those who look after the site (`strays.Mismatch.RETURNED`).
    """
    log.error("instance %s was called gone and is there; its row goes, and its server stays", visit.claim.instance.id)
    return _closed(visit, {}, [])


def _closed(visit: Visit, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """The end of a row, and of what it held."""
    grants.revoke_machine(visit.claim.instance.id, cause="deleted")
    closed = {
        **changes,
        "deleted_at": Now(),
        "server_id": None,
        "port_id": None,
        "admitted_at": None,
        "desktop_secret": "",
        "desktop_certificate": "",
    }
    checkpoint(checkpoints.QUOTA_BEFORE_RELEASE)
    return Outcome(again_in=pace().rest, changes=closed, events=(*events, Event(kind="deleted")), frees=True)


def discard(visit: Visit, sight: Sight, changes: Mapping[str, object], events: list[Event]) -> Outcome | None:
    """Deletes a server that never became a machine, so that another can be made; counts it once.

    None where the claim was lost.
    """
    instance, now = visit.claim.instance, visit.claim.now
    if not holds.may_discard():
        # One that is being discarded keeps its reason, by which the next build is judged.
        words = saying("held", sight.detail) if instance.discarding_since is None else {}
        # Nor does it keep others from being made.
        waits = {**changes, "failures": instance.failures + 1, "admitted_at": None, **words}
        return Outcome(again_in=pacing.backed_off(instance.failures), changes=waits, events=tuple(events))
    if instance.discarding_since is None:
        code = "build_failed" if sight.seen is Seen.FAILED or sight.surplus else "too_slow"
        code = "no_room" if NO_HOST in sight.detail else code
        log.warning("instance %s loses its build %d: %s %s", instance.id, instance.builds_lost + 1, code, sight.detail)
        changes = {
            **changes,
            "discarding_since": now,
            "builds_lost": instance.builds_lost + 1,
            **saying(f"retry_{code}", sight.detail),
        }
        # Committed before the order: where its answer is lost, the server that is away next was ours to delete, and
        # nobody outside took it.
        if not transitions.write(visit.claim, changes, events=[*events, Event(kind="build.lost")]):
            return None
        events = []
    age = now - (instance.discarding_since or now)
    again = pace().on_its_way(age)
    try:
        _order(visit, sight, again=False)
    except CloudError as error:
        # Ordered again at the next look; why it was lost stays said.
        visit.unanswered(error)
        again = pacing.backed_off(instance.failures)
        changes = {**changes, "failures": instance.failures + 1}
    return Outcome(again_in=again, changes=changes, events=tuple(events))


def builds_left(instance: Instance) -> bool:
    """Whether another build may follow those that were lost. One that never ended is worth one more, not two."""
    return instance.builds_lost < (STUCK_BUILDS if instance.reason_code == "retry_too_slow" else BUILDS)


def discarded(visit: Visit, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """The lost build is gone: the machine waits for its turn again, after a pause."""
    lost = max(1, visit.claim.instance.builds_lost)
    pauses = pace().rebuild
    pause = pauses[min(lost, len(pauses)) - 1]
    return Outcome(again_in=pause, changes={**changes, **_nothing_left()}, events=tuple(events))


def give_up(visit: Visit, changes: Mapping[str, object]) -> Outcome:
    """No build is left, and no server: it has failed, and holds nothing any more. Raises NotNow."""
    instance, cloud = visit.claim.instance, visit.orders(Service.NEUTRON)
    ports = cloud.find_ports(instance.id)
    if any(port.server_id and cloud.known(port.server_id) for port in ports):
        # A server that no list shows is on it: nothing is given up yet.
        changes = {**changes, "failures": instance.failures + 1}
        return Outcome(again_in=pacing.backed_off(instance.failures), changes=changes)
    for port in ports:
        visit.orders().delete_port(port.id)
    code = instance.reason_code.removeprefix("retry_")
    words = LOST_WORDS.get(code, LOST_WORDS["build_failed"])
    if code not in LOST_WORDS:
        code = "build_failed"
    left = {**changes, **_nothing_left(), "port_id": None}
    return failing(left, code, words, instance.reason_detail, frees=True)


def gone(visit: Visit, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """It had a server and the cloud has none any more. Its row stays and says so; it is not made again by itself."""
    instance, again = visit.claim.instance, pacing.spread(pace().rest)
    if instance.gone:
        return Outcome(again_in=again, changes=changes)
    grants.revoke_machine(instance.id, cause="gone")
    words = _("The machine no longer exists: it was removed outside this platform.")
    verdict = {**changes, **silence(), "gone": True, "reason_code": "gone", "reason": words, "silent_since": None}
    return Outcome(again_in=again, changes=verdict, events=(*events, Event(kind="gone", text=words)), frees=True)


def surplus(visit: Visit, sight: Sight) -> None:
    """Deletes what a doubled create left beside the server somebody works on."""
    extra = [server for server in sight.surplus if not server.deleting]
    if extra and holds.may_discard():
        for server in extra:
            log.warning("instance %s has a surplus server %s; it is deleted", visit.claim.instance.id, server.id)
            visit.orders().delete(server.id)


def _nothing_left() -> dict[str, object]:
    """How a row stands whose server is gone and which is to have another, or none."""
    return {
        "discarding_since": None,
        "had_server": False,
        "server_id": None,
        "admitted_at": None,
        "desktop_host": None,
        "desktop_port": None,
        "cloud_host": "",
        "cloud_flavour": "",
    }


def _order(visit: Visit, sight: Sight, *, again: bool) -> None:
    """Deletes what is seen; with `again` also what says that its deletion is under way."""
    for server in _all(sight):
        if server.deleting and not again:
            continue
        checkpoint(checkpoints.DELETE_BEFORE)
        try:
            visit.orders().delete(server.id)
        except ServerGone:
            continue
        checkpoint(checkpoints.DELETE_AFTER)


def _all(sight: Sight) -> Iterable[Server]:
    return (*((sight.server,) if sight.server else ()), *sight.surplus)
