"""Celery names of the outbox. Each may run twice or never: the reconciler empties the outbox too."""

import logging

from celery import shared_task
from celery.exceptions import OperationalError

from visa.outbox import sending

log = logging.getLogger(__name__)


@shared_task(name="visa.outbox.send_due")
def send_due() -> None:
    """Carries what is due."""
    sending.send_due()


@shared_task(name="visa.outbox.forget_old")
def forget_old() -> None:
    """Clears away what was done with long ago."""
    sending.forget_old()


def nudge() -> None:
    """Asks a worker to look now. Only makes it faster: a lost nudge costs at most one tick."""
    try:
        send_due.delay()
    except (OperationalError, OSError) as error:
        log.warning("the outbox was not nudged: %s", type(error).__name__)
