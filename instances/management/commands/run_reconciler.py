"""The reconciler: the same step the workers take, driven by a plain loop that needs no Redis."""

import logging
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection
from typing_extensions import override

from instances import driving, guest_reports, notices, nudges, provisioning, reconciliation, releases, transitions
from instances.cloud.connect import connect
from instances.pace import pace
from instances.sweeps import Part
from visa.audit import sealing
from visa.outbox import refusals, sending

log = logging.getLogger(__name__)

#: seconds between two polls: while something is due that may not be done yet, and at most
POLL_SECONDS, LONGEST_SECONDS = 0.25, 1.0
#: so many steps at once: most of a step is waiting for the cloud
STEPS_AT_ONCE = 8
#: two, so that a desktop that begins to answer is not kept waiting by a long list of the cloud's
WATCHES = 2
#: seconds between two looks for what the audit trail has not sealed
SEAL_SECONDS = 10.0


class Command(BaseCommand):
    help = "Brings machines nearer to what is wanted, one due row at a time, until SIGTERM or Ctrl-C."

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        stopping, woken = threading.Event(), threading.Event()

        def stop(*_: Any) -> None:
            stopping.set()
            woken.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        cloud = connect()
        driving.warm_up(cloud)
        threading.Thread(target=_sweep, args=(stopping,), name="sweeps", daemon=True).start()
        watches = [
            threading.Thread(target=_watch, args=(stopping,), name=f"watch-{place}") for place in range(1, 1 + WATCHES)
        ]
        for one in watches:
            one.start()
        threading.Thread(target=nudges.listen, args=(stopping, woken.set), name="ears", daemon=True).start()
        much = threading.Event()
        helpers = [
            threading.Thread(target=_help, args=(stopping, much), name=f"steps-{number}")
            for number in range(1, STEPS_AT_ONCE)
        ]
        for helper in helpers:
            helper.start()
        threading.Thread(target=sending.keep_sending, args=(stopping,), name="outbox", daemon=True).start()
        asked = (stopping, pace().turn)
        threading.Thread(target=refusals.keep_asking, args=asked, name="redis", daemon=True).start()
        seal_at = 0.0
        log.info("the reconciler runs")
        while not stopping.is_set():
            woken.clear()  # before it is asked: what is said from here on may be newer than the answer
            pause = POLL_SECONDS
            try:
                idle = provisioning.advance(cloud) is None
                if idle:
                    pause = _until_due()
                else:
                    much.set()
                notices.turn(Part.RECONCILER)
                if time.monotonic() >= seal_at:
                    seal_at = time.monotonic() + SEAL_SECONDS
                    sealing.keep()
            except (OperationalError, InterfaceError) as error:
                # The database is the only truth; without it there is nothing to do but to wait for it.
                log.warning("the database does not answer: %s", type(error).__name__)
                connection.close()
                idle = True
            except Exception:
                # Nobody's fault must stop the others, or keep this loop spinning.
                log.exception("a step failed")
                connection.close()
                idle = True
            # Otherwise its one connection stays: it is cheaper than a new one each second, and how doctor sees it live.
            if idle:
                woken.wait(pause)
        log.info("the reconciler stops")
        much.set()
        for one in (*watches, *helpers):
            one.join()  # a step that runs is finished


def _until_due() -> float:
    """Seconds until the next row is due, as far as is known now: what becomes due by a person's wish is told of."""
    until = transitions.due_in()
    if until is None:
        return LONGEST_SECONDS
    return min(max(until.total_seconds(), 0.0) or POLL_SECONDS, LONGEST_SECONDS)


def _help(stopping: threading.Event, much: threading.Event) -> None:
    """Takes steps beside the loop while there is more than one to take."""
    cloud = connect()
    while not stopping.is_set():
        much.wait()
        try:
            if not stopping.is_set() and provisioning.advance(cloud) is None:
                much.clear()
        except Exception:
            # As in the loop: whatever broke, this helper is there for the next row.
            log.exception("a step failed")
            connection.close()
            much.clear()
        if not much.is_set():
            # Its connection would be taken for the loop's by whoever looks whether that one is alive.
            connection.close()


def _watch(stopping: threading.Event) -> None:
    """Follows the cloud and the desktops, beside the loop, which it wakes by what it makes due."""
    cloud = connect()
    while not stopping.is_set():
        try:
            driving.watch_over(cloud, stopping)
        except Exception:
            # The next turn looks at everything anew; without one nobody would.
            log.exception("a turn of the watch failed")
            connection.close()
        stopping.wait(pace().greet_booting.total_seconds())


def _sweep(stopping: threading.Event) -> None:
    """Rows against the whole cloud, beside the loop: long lists must not keep a launch waiting.

    It may be killed at any moment: what a sweep means to delete is written down before.
    """
    cloud = connect()
    while not stopping.is_set():
        try:
            if not releases.outdated() and reconciliation.sweep_if_due(cloud):
                if reconciliation.compare_allowances():
                    notices.tell_unbalanced()
                guest_reports.forget_consoles()
        except Exception:
            # The next sweep begins from the lists; a thread that ended would sweep nothing and say nothing.
            log.exception("a sweep failed")
        finally:
            # Its connection would be taken for the loop's by whoever looks whether that one is alive.
            connection.close()
        stopping.wait(pace().sweep.total_seconds() / 4)
