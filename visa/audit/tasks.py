"""Celery names of what keeps the trail: sealing, its heads, and the nightly look at all of it."""

import logging

from celery import shared_task

from visa.audit import sealing, trail, verification

log = logging.getLogger(__name__)


@shared_task(name="visa.audit.keep")
def keep() -> None:
    """Seal what waits; once an hour, tell the head."""
    sealing.keep()


@shared_task(name="visa.audit.verify")
def verify() -> None:
    """Verify the whole chain, and say so in the trail: `manage.py doctor` reads there when it was last in order."""
    verdict = verification.verify()
    for fault in verdict.faults[:20]:
        log.error("the audit trail was tampered with: %s", fault.words)
    trail.record(
        "audit.verify",
        kind="audit",
        object_id=verdict.number,
        reason=verification.BROKEN if verdict.faults else verification.IN_ORDER,
        detail=verification.told(verdict),
    )
