"""Out of the outbox: claim what is due, carry it, write down what came of it.

Any number of processes may do so at once: a claim locks past what others hold and lasts `LEASE`, in database time. A
process that dies between carrying and writing leaves a thing that is carried twice: what is carried shows its key.
"""

import logging
import random
import threading
from datetime import timedelta

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from visa.outbox.couriers import Away, Hopeless, Refused, courier_of, known_kinds
from visa.outbox.models import Outbox

log = logging.getLogger(__name__)

#: the longest a courier may take: six exchanges with a mail server of 10 s each
LEASE = timedelta(seconds=60)
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(minutes=15)
#: what nobody took for so long is given up, as mail servers do (RFC 5321 4.5.4.1)
PATIENCE = timedelta(days=4)
#: what was sent stands here for so long, against its being put again
REMEMBERED = timedelta(days=30)
#: things one call carries at most, so that a call ends
AT_ONCE = 50
#: seconds between two looks of a loop of its own
POLL_SECONDS = 5.0


def send_due(limit: int = AT_ONCE) -> int:
    """Carries what is due, the longest waiting first, at most `limit` things; how many were done with."""
    done = 0
    for _ in range(limit):
        row = claim()
        if row is None:
            break
        done += _carry(row)
    return done


def claim() -> Outbox | None:
    """Takes the one thing that has waited longest; None where nothing is due that this process can carry."""
    free = Outbox.objects.filter(Q(lease_until=None) | Q(lease_until__lt=Now()), sent_at=None, due_at__lte=Now())
    with transaction.atomic():
        row = free.filter(kind__in=known_kinds()).select_for_update(skip_locked=True).order_by("due_at", "id").first()
        if row is None:
            return None
        Outbox.objects.filter(id=row.id).update(attempts=F("attempts") + 1, lease_until=Now() + LEASE)
    row.attempts += 1
    return row


def _carry(row: Outbox) -> int:
    try:
        said = courier_of(row.kind)(row.key, row.payload)
    except Hopeless as error:
        log.warning("%s is given up: %s", row.key, error)
        return _done(row, said=str(error), given_up=True)
    except Away as error:
        log.warning("%s waits, and all of its kind: %s", row.key, error)
        _later(row, str(error), with_its_kind=True)
        return 0
    except Refused as error:
        log.warning("%s waits: %s", row.key, error)
        _later(row, str(error))
        return 0
    except (OperationalError, InterfaceError):
        raise  # the database is away: the lease runs out by itself
    except Exception as error:
        log.exception("%s could not be carried", row.key)
        _later(row, type(error).__name__)
        return 0
    return _done(row, said=said)


def _held(row: Outbox) -> Q:
    """Still this courier's: nobody has taken it since."""
    return Q(id=row.id, attempts=row.attempts, sent_at=None)


def _done(row: Outbox, *, said: str = "", given_up: bool = False) -> int:
    held = Outbox.objects.filter(_held(row))
    return held.update(sent_at=Now(), lease_until=None, said=said[:200], given_up=given_up)


def _later(row: Outbox, said: str, *, with_its_kind: bool = False) -> None:
    held = Outbox.objects.filter(_held(row))
    given_up = held.filter(made_at__lt=Now() - PATIENCE).update(
        sent_at=Now(), lease_until=None, said=said[:200], given_up=True
    )
    if given_up:
        log.error("%s is given up after %d tries: %s", row.key, row.attempts, said)
        return
    wait = _wait(row.attempts)
    held.update(due_at=Now() + wait, lease_until=None, said=said[:200])
    if with_its_kind:
        # Nobody is there to take any of them. This one finds out first when somebody is, not all of them at once.
        others = Outbox.objects.filter(kind=row.kind, sent_at=None, due_at__lt=Now() + wait).exclude(id=row.id)
        with transaction.atomic():
            ids = list(others.select_for_update(skip_locked=True).values_list("id", flat=True))
            Outbox.objects.filter(id__in=ids).update(due_at=Now() + wait)


def _wait(attempts: int) -> timedelta:
    """10 s, doubled with each try, at most a quarter of an hour; half of it left to chance."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * (1 << min(attempts - 1, 10)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def forget_old() -> int:
    """Deletes what was done with long ago; how many."""
    deleted, _rows = Outbox.objects.filter(sent_at__lt=Now() - REMEMBERED).delete()
    return deleted


def keep_sending(stopping: threading.Event) -> None:
    """Carries what is due until told to stop: for a thread of its own, so that a slow mail server holds up no machine.

    Needs no Redis. Its connection does not stay, so that it is not taken for the process's own.
    """
    while not stopping.is_set():
        try:
            send_due()
        except (OperationalError, InterfaceError) as error:
            log.warning("the outbox cannot be asked: %s", type(error).__name__)
        except Exception:
            log.exception("the outbox could not be emptied")
        finally:
            connection.close()
        stopping.wait(POLL_SECONDS)
