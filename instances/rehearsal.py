"""The whole way, once, as a person who is nobody: launch, desktop, picture, deletion.

For `manage.py doctor --launch`, by hand or by a site's monitoring. What it made is taken away, whatever happens. It
drives nothing itself: that workers or the reconciler do is part of what is proven.
"""

import asyncio
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import connection

from instances import access, actions, grants
from instances.actions import Launch
from instances.desktop.tunnel import MachineSilent, Target, open_machine
from instances.lifecycle import State
from instances.models import Instance
from visa.accounts import people
from visa.accounts.models import User

#: the person a synthetic launch is done as: an issuer nobody signs in with
SERVICE = ("urn:visa:service", "doctor", "Synthetic launch")
POLL_SECONDS = 0.5
HANDSHAKE_SECONDS = 15.0


class LaunchFailed(Exception):
    """The synthetic launch did not arrive; the text says where it stands."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A step of a synthetic launch: what was reached, and after how many seconds since the beginning."""

    seconds: float
    words: str


def synthetic_launch(doi: str, *, patience: float = 900.0) -> Generator[Passed, None, None]:
    """Launches `doi` as nobody, waits for the desktop, looks at it as the gateway does, and deletes it.

    Yields each step as it is reached. Raises `LaunchFailed` and the refusals of `actions.launch`. The machine is
    deleted in every case, also when whoever listens goes away in the middle. `patience` is in seconds.
    """
    began = time.monotonic()
    person = people.service(*SERVICE)

    def passed(words: str) -> Passed:
        return Passed(seconds=time.monotonic() - began, words=words)

    launched = actions.launch(Launch(doi=doi, name="Synthetic launch"), by=person)
    try:
        yield passed("taken up again after an earlier one" if launched.resumed else "accepted")
        for words in _until_ready(person, launched.instance_id, began + patience):
            yield passed(words)
        screen = asyncio.run(_looked_at(person, launched.instance_id))
        yield passed(f"the gateway's own handshake: {screen}")
    finally:
        actions.delete(launched.instance_id, by=person)
    yield passed("deletion asked for")
    _until_gone(launched.instance_id, time.monotonic() + patience)
    yield passed("gone")


def _until_ready(person: User, instance_id: UUID, until: float) -> Iterator[str]:
    """The machine's own events, as they come, until its desktop answers."""
    told = 0
    while True:
        view = access.instance_for(person, instance_id)
        for event in view.events[told:]:
            yield event.words
        told = len(view.events)
        if view.state is State.ACTIVE:
            return
        if view.state in {State.ERROR, State.GONE}:
            detail = Instance.objects.filter(id=instance_id).values_list("reason_detail", flat=True).first()
            raise LaunchFailed(f"{view.state_words}: {view.reason} {detail or ''}".strip())
        if time.monotonic() > until:
            reason = f" ({view.reason})" if view.reason else ""
            raise LaunchFailed(
                f"After {view.seconds_so_far} s it is still: {view.state_words}{reason}. If no step was taken, nobody"
                " drives machines: see Workers and Reconciler."
            )
        time.sleep(POLL_SECONDS)


async def _looked_at(person: User, instance_id: UUID) -> str:
    """Opens the desktop with a ticket, as the gateway does, and asks for one update of its picture."""
    ticket = await asyncio.to_thread(_admitted, person, instance_id)
    target = Target(
        host=ticket.host,
        port=ticket.port,
        password=ticket.password,
        certificate_pem=ticket.certificate_pem,
        ranges=settings.ENVIRONMENT.desktop_ranges,
    )
    try:
        async with open_machine(target, seconds=HANDSHAKE_SECONDS) as machine:
            width, height = machine.screen.width, machine.screen.height
            # FramebufferUpdateRequest, not incremental (RFC 6143 section 7.5.3)
            await machine.write(b"\x03\x00" + bytes(4) + width.to_bytes(2, "big") + height.to_bytes(2, "big"))
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                size = len(await machine.read())
    except (MachineSilent, TimeoutError, OSError) as error:
        raise LaunchFailed(f"The desktop greets, and cannot be entered: {error}") from error
    finally:
        await asyncio.to_thread(_left, ticket.connection_id)
    if not size:
        raise LaunchFailed("The desktop let us in and ended without a picture.")
    return f"{width} × {height} pixels, certificate and password proven, pictures come"


def _admitted(person: User, instance_id: UUID) -> grants.Pass:
    try:
        ticket = actions.desktop_ticket(instance_id, by=person, session_key="")
        admitted = grants.redeem(ticket.token, instance_id)
    except grants.NotThere as error:
        raise LaunchFailed("The machine's desktop went away again.") from error
    finally:
        connection.close()
    if admitted is None:
        raise LaunchFailed("A ticket that was just made was not taken.")
    return admitted


def _left(connection_id: UUID) -> None:
    grants.closed(connection_id, "doctor")
    connection.close()


def _until_gone(instance_id: UUID, until: float) -> None:
    while not Instance.objects.filter(id=instance_id, deleted_at__isnull=False).exists():
        if time.monotonic() > until:
            raise LaunchFailed("Its deletion was asked for, and it is not gone yet.")
        time.sleep(POLL_SECONDS)
