"""Fixtures for desktops: `desk` is a machine that is ready, its owner and a web session; the test puts up its desktop.

The rows are made as they stand when a machine is ready, without a cloud: what is tested here begins after that.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from instances import actions, credentials, grants
from instances.lifecycle import Seen, State, Wanted
from instances.models import Instance
from instances.userdata import DesktopSecret
from tests import factories
from visa.accounts.models import User

T = TypeVar("T")


async def in_database(ask: Callable[..., T], *arguments: object) -> T:
    """Asks the database in a thread, and leaves no connection behind."""

    def run() -> T:
        try:
            return ask(*arguments)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A ready machine, its owner, and a web session of theirs."""

    instance_id: UUID
    owner: User
    session_key: str

    @property
    def path(self) -> str:
        return f"/ws/instances/{self.instance_id}/desktop/"

    async def stands_at(self, port: int, secret: DesktopSecret) -> None:
        """Says where the desktop is."""
        await in_database(self._place, port, secret)

    async def ticket(self) -> str:
        """A ticket for the owner."""
        return (await in_database(self._issue, self.owner)).token

    async def ticket_for(self, person: User) -> str:
        """A ticket for somebody else: who may have one is not decided here."""
        return (await in_database(self._issue, person)).token

    def _issue(self, person: User) -> grants.Ticket:
        return grants.issue(self.instance_id, person, session_key=self.session_key)

    def _place(self, port: int, secret: DesktopSecret) -> None:
        Instance.objects.filter(id=self.instance_id).update(
            desktop_host="127.0.0.1",
            desktop_port=port,
            desktop_secret=credentials.seal(secret, settings.ENVIRONMENT.machine_keys),
            desktop_certificate=secret.certificate,
        )


@pytest.fixture
def desk(transactional_db: None) -> Desk:
    return make_desk(factories.make_user(name="A. Researcher"))


def make_desk(owner: User) -> Desk:
    """A machine of theirs that is ready."""
    now = timezone.now()
    slug = f"size-{secrets.token_hex(4)}"
    flavour = factories.make_flavour(slug=slug)
    instance = Instance.objects.create(
        owner=owner,
        name="desk",
        specification={"mounts": [], "size": actions.size_of(flavour)},
        flavour=flavour,
        image=factories.make_image(slug=slug),
        launch_key=secrets.token_hex(8),
        wanted=Wanted.RUNNING,
        wanted_at=now,
        seen=Seen.READY,
        state=State.ACTIVE,
        step_since=now,
        due_at=now,
        created_at=now,
        ready_at=now,
    )
    return Desk(instance_id=instance.id, owner=owner, session_key=secrets.token_hex(16))
