"""Celery names: five lines each, no decisions. Ids only; every task may run twice or never."""

import logging
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.exceptions import OperationalError
from celery.signals import task_revoked, worker_process_init
from django.db import connection

from instances import driving, guest_reports, notices, provisioning, reconciliation, releases
from instances.cloud.connect import connect
from instances.sweeps import Part

log = logging.getLogger(__name__)

#: rows one tick takes at most, or little more, so that a tick ends
TICK_ROWS = 50
#: a row due again within this many seconds is followed up at once; the tick finds all others
FOLLOW_UP = 5.0


@shared_task(name="instances.advance")
def advance_instance(instance_id: str) -> None:
    """Brings one machine one step further, and comes back soon where it is on its way."""
    cloud = connect()
    again = provisioning.advance(cloud, UUID(instance_id))
    # A step that ended may have let somebody else in, whom no nudge names.
    provisioning.advance(cloud)
    if again is not None and again.total_seconds() <= FOLLOW_UP:
        advance_instance.apply_async((instance_id,), countdown=again.total_seconds())


@shared_task(name="instances.advance_due")
def advance_due() -> None:
    """The tick: watches the cloud, then takes what is due, longest waiting first."""
    cloud = connect()
    try:
        notices.turn(Part.TICK)
        driving.watch_over(cloud)
    except Exception:
        # What is due is taken nevertheless.
        log.exception("a turn of the watch failed")
    driving.take_due(cloud, TICK_ROWS)


@worker_process_init.connect
def _known_to_the_cloud(**_more: object) -> None:
    """A process of the worker that has just begun."""
    driving.warm_up(connect())


@task_revoked.connect
def _came_too_late(sender: Any, *, expired: bool = False, **_more: object) -> None:
    """A tick that waited behind so much else that nobody wants it any more: the timetable goes, and a worker lives."""
    if expired and sender.name == advance_due.name:
        try:
            notices.turn(Part.TICK)
        finally:
            connection.close()  # this is the worker itself, and none of its processes: nobody else closes it here


@shared_task(name="instances.sweep")
def sweep() -> None:
    """Rows against the whole cloud, once a minute for all drivers together."""
    if releases.outdated():
        return
    reconciliation.sweep_if_due(connect())
    guest_reports.forget_consoles()


@shared_task(name="instances.compare_allowances")
def compare_allowances() -> None:
    """Counters against reservations."""
    if reconciliation.compare_allowances():
        notices.tell_unbalanced()


def nudge(instance_id: UUID) -> None:
    """Asks a worker to look now. Only makes it faster: a lost nudge costs at most one tick."""
    try:
        advance_instance.delay(str(instance_id))
    except (OperationalError, OSError) as error:
        log.warning("instance %s was not nudged: %s", instance_id, type(error).__name__)
