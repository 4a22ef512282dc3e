"""Machines: the rows. What is wanted and what is seen are written by `instances.transitions` alone."""

import uuid
from datetime import timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from typing_extensions import override

from instances.lifecycle import Seen, State, Wanted


class Image(models.Model):
    """The software a machine starts with, as administrators offer it. `cloud_name` is the image's name at the cloud."""

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80, help_text=_("What people read, such as “Analysis desktop”."))
    description = models.CharField(max_length=300, blank=True)
    cloud_name = models.CharField(max_length=100)
    enabled = models.BooleanField(default=True)
    position = models.PositiveSmallIntegerField(
        default=0, help_text=_("Smaller numbers come first; the first is proposed.")
    )

    class Meta:
        ordering: ClassVar[list[str]] = ["position", "slug"]

    @override
    def __str__(self) -> str:
        return self.name


class Instance(models.Model):
    """One machine of one person.

    `wanted` is the person's wish, `seen` what the cloud last showed; `state` is derived from both and stored only to be
    searched. `fence` and `lease_until` belong to whoever is driving it now, in database time.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="instances")
    name = models.CharField(max_length=120)
    dataset = models.ForeignKey(
        "experiments.Dataset", on_delete=models.PROTECT, null=True, blank=True, related_name="instances"
    )
    flavour = models.ForeignKey("quotas.Flavour", on_delete=models.PROTECT, related_name="instances")
    image = models.ForeignKey(Image, on_delete=models.PROTECT, related_name="instances")
    #: equal keys of one person are one launch, however often they are sent
    launch_key = models.CharField(max_length=64)

    wanted = models.CharField(max_length=10, choices=[(one.value, one.value) for one in Wanted], default=Wanted.RUNNING)
    wanted_at = models.DateTimeField()
    seen = models.CharField(max_length=10, choices=[(one.value, one.value) for one in Seen], default=Seen.ABSENT)
    seen_at = models.DateTimeField(null=True)
    state = models.CharField(max_length=12, choices=[(one.value, one.value) for one in State], default=State.BUILDING)
    reboot_wanted_at = models.DateTimeField(null=True)
    reboot_sent_at = models.DateTimeField(null=True)

    #: the frozen wish: `mounts` as `[{source, target, fstype, options}]`, and `size`, the flavour as it was reserved:
    #: `{name, machines, cores, memory_mib, gpus, disk_gib}`
    specification = models.JSONField(default=dict)
    server_id = models.CharField(max_length=100, null=True, unique=True)  # noqa: DJ001 - unique where there is one
    had_server = models.BooleanField(default=False)
    desktop_host = models.GenericIPAddressField(null=True)
    desktop_port = models.PositiveIntegerField(null=True)
    #: the desktop's secret, encrypted (`instances.credentials`), and the certificate it is pinned to
    desktop_secret = models.TextField(blank=True)
    desktop_certificate = models.TextField(blank=True)

    attempt = models.PositiveIntegerField(default=0)
    intent_at = models.DateTimeField(null=True)
    step_since = models.DateTimeField()
    fence = models.PositiveBigIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    due_at = models.DateTimeField()
    failures = models.PositiveIntegerField(default=0)
    #: looks in a row that found no server where there was one
    missed = models.PositiveIntegerField(default=0)
    failed = models.BooleanField(default=False)
    gone = models.BooleanField(default=False)
    reason_code = models.CharField(max_length=40, blank=True)
    #: for people; `reason_detail` is the cloud's own words, for staff
    reason = models.CharField(max_length=300, blank=True)
    reason_detail = models.CharField(max_length=1000, blank=True)

    created_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "launch_key"], name="instance_owner_launch_key"),
            # Twenty tabs of one link make one machine: a person has at most one live machine for a dataset.
            models.UniqueConstraint(
                fields=["owner", "dataset"],
                condition=Q(deleted_at=None) & ~Q(wanted="deleted"),
                name="instance_one_per_dataset",
            ),
            models.CheckConstraint(condition=Q(wanted__in=[one.value for one in Wanted]), name="instance_wanted_known"),
            models.CheckConstraint(condition=Q(seen__in=[one.value for one in Seen]), name="instance_seen_known"),
            models.CheckConstraint(condition=Q(state__in=[one.value for one in State]), name="instance_state_known"),
        ]
        indexes = [models.Index(fields=["due_at"], condition=Q(deleted_at=None), name="instance_due")]

    @override
    def __str__(self) -> str:
        return self.name


class InstanceEvent(models.Model):
    """Something that happened to a machine, in the order it happened. `step` is a `State`, or a verb people used."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    text = models.CharField(max_length=300, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["at", "id"]
        indexes = [models.Index(fields=["instance", "at"], name="event_instance_at")]


class AccessGrant(models.Model):
    """One person's right to one machine's desktop, from one web session. The gateway trusts only this row.

    `epoch` rises with every change; `revoked_at` ends it. `session_hash` is the SHA-256 of the session key, so that the
    end of a session ends its desktops without the key standing here.
    """

    class Role(models.TextChoices):
        CONTROL = "control", _("full control")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="grants")
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="grants")
    role = models.CharField(max_length=10, choices=Role, default=Role.CONTROL)
    session_hash = models.CharField(max_length=64, db_index=True, blank=True)
    epoch = models.PositiveIntegerField(default=0)
    made_at = models.DateTimeField(auto_now_add=True)
    ends_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    cause = models.CharField(max_length=40, blank=True)

    class Meta:
        indexes = [models.Index(fields=["instance"], condition=Q(revoked_at=None), name="grant_live")]


class DesktopTicket(models.Model):
    """Opens one connection under a grant, once, within `LIFE`. Only the SHA-256 of the ticket is kept."""

    LIFE = timedelta(seconds=15)

    ticket_hash = models.CharField(max_length=64, primary_key=True)
    grant = models.ForeignKey(AccessGrant, on_delete=models.CASCADE, related_name="tickets")
    expires_at = models.DateTimeField()


class Connection(models.Model):
    """A desktop that is open, or was: for presence, for the administrator and for the count of open desktops."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    grant = models.ForeignKey(AccessGrant, on_delete=models.CASCADE, related_name="connections")
    opened_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    cause = models.CharField(max_length=40, blank=True)
