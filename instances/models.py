"""Machines: the rows. What is wanted and what is seen are written by `instances.transitions` alone."""

import uuid
from datetime import timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Func, Q, Value
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

    #: its place among all launches this installation ever accepted; goes with the server, so that a cloud with newer
    #: machines than the database shows that the database was put back
    serial = models.BigIntegerField(
        unique=True, editable=False, db_default=Func(Value("instances_instance_serial"), function="nextval")
    )
    #: when the present wish was seen fulfilled: from then on the wish follows what the cloud does, not the reverse
    fulfilled_at = models.DateTimeField(null=True)
    #: since when it counts among the creates in flight; null while it waits for its turn, and when it is made
    admitted_at = models.DateTimeField(null=True)
    port_id = models.CharField(max_length=100, null=True, unique=True)  # noqa: DJ001 - unique where there is one
    port_intent_at = models.DateTimeField(null=True)
    #: builds that ended in ERROR or never ended, and were deleted to be tried again
    builds_lost = models.PositiveSmallIntegerField(default=0, db_default=0)
    #: since when its server is being deleted because it never became a machine
    discarding_since = models.DateTimeField(null=True)
    #: since when the desktop of a running machine does not answer
    silent_since = models.DateTimeField(null=True)
    #: when an alarm was raised about what it is stuck in
    alarmed_at = models.DateTimeField(null=True)
    #: the size and the host the cloud last named: another word tells of a resize or a move
    cloud_flavour = models.CharField(max_length=255, blank=True, default="", db_default="")
    cloud_host = models.CharField(max_length=255, blank=True, default="", db_default="")

    attempt = models.PositiveIntegerField(default=0)
    intent_at = models.DateTimeField(null=True)
    step_since = models.DateTimeField()
    fence = models.PositiveBigIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    lease_owner = models.CharField(max_length=80, blank=True, default="", db_default="")
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
        indexes = [
            models.Index(fields=["due_at"], condition=Q(deleted_at=None), name="instance_due"),
            # the line, and those whose turn it is: few rows of many
            models.Index(fields=["due_at"], condition=Q(state="waiting"), name="instance_waiting"),
            models.Index(fields=["owner"], condition=Q(admitted_at__isnull=False), name="instance_admitted"),
        ]

    @override
    def __str__(self) -> str:
        return self.name


class Release(models.Model):
    """A change of the tables that code without it must not drive machines on. The migration that makes it writes this.

    `instances.releases` compares; taking the migration back takes the row with it.
    """

    number = models.PositiveIntegerField(primary_key=True)
    #: what an operator reads who finds that old code stands still
    why = models.CharField(max_length=200)
    at = models.DateTimeField()

    @override
    def __str__(self) -> str:
        return f"{self.number}: {self.why}"


class ServiceState(models.Model):
    """How one service of the cloud answers, for all workers alike: the breaker and the time not to call before.

    Written by `instances.pacing` alone, in database time. Closed while `opened_at` is null.
    """

    service = models.CharField(max_length=20, primary_key=True)
    failures = models.PositiveIntegerField(default=0)
    #: when the failures that count began
    failing_since = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    #: when the next single call may probe an open breaker
    probe_at = models.DateTimeField(null=True)
    #: the service asked not to be called before this (Retry-After, RFC 9110 section 10.2.3)
    not_before = models.DateTimeField(null=True)
    detail = models.CharField(max_length=300, blank=True)


class Watch(models.Model):
    """How far the machines' watch over the cloud has come: one row, written by `instances.watch` alone.

    `instances.pacing` brings its next list forward. Beside it, who watches: the last three are written by
    `instances.notices` alone.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: when the last pass over what changed was begun, and the last over everything, where they were answered in full
    changes_at = models.DateTimeField(null=True)
    full_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)
    #: the newest change that was listed, by the cloud's clock, and since when nothing newer was, by the database's
    newest_at = models.DateTimeField(null=True)
    newest_since = models.DateTimeField(null=True)
    #: when the desktops of machines that boot, and of those that are ready, are to be asked for their greeting
    booting_due_at = models.DateTimeField(null=True)
    ready_due_at = models.DateTimeField(null=True)
    #: when the timetable's tick last reached a worker, and when a reconciler last took its turn; null where never
    tick_at = models.DateTimeField(null=True)
    reconciler_at = models.DateTimeField(null=True)
    #: since when Redis takes nothing; null while it does
    redis_silent_since = models.DateTimeField(null=True)


class Sighting(models.Model):
    """Something in the cloud with our tag that no row of ours explains. Written by `instances.reconciliation` alone."""

    class Kind(models.TextChoices):
        SERVER = "server", _("server")
        PORT = "port", _("port")
        VOLUME = "volume", _("volume")

    class Verdict(models.TextChoices):
        SIGHTED = "sighted", _("seen, not judged yet")
        QUARANTINED = "quarantined", _("seen twice; to be deleted")
        HELD = "held", _("held back for an administrator")
        SWEPT = "swept", _("deleted")
        EXPLAINED = "explained", _("it has its row after all, or went by itself")

    kind = models.CharField(max_length=10, choices=Kind)
    provider_id = models.CharField(max_length=100)
    name = models.CharField(max_length=255, blank=True)
    instance_id = models.UUIDField(null=True)
    made_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    times_seen = models.PositiveIntegerField(default=1)
    #: since when it is old enough to be judged; from then on it must be seen again before it is deleted
    quarantined_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=12, choices=Verdict, default=Verdict.SIGHTED)
    why = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-last_seen_at", "id"]
        constraints = [models.UniqueConstraint(fields=["kind", "provider_id"], name="sighting_once")]


class Sweep(models.Model):
    """One comparison of the rows with the whole cloud, and what came of it."""

    at = models.DateTimeField()
    #: machines that may have something in the cloud
    rows = models.PositiveIntegerField()
    #: machines this database ever accepted; they are never deleted, so that fewer of them tell of a loss
    accepted = models.PositiveIntegerField(default=0, db_default=0)
    servers = models.PositiveIntegerField()
    ports = models.PositiveIntegerField()
    volumes = models.PositiveIntegerField()
    strays = models.PositiveIntegerField(default=0)
    swept = models.PositiveIntegerField(default=0)
    ghosts = models.PositiveIntegerField(default=0)
    #: the brake that kept this sweep from deleting anything; empty where none did
    held = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-at", "-id"]


class SweepHold(models.Model):
    """Why sweeps only report, until an administrator releases them."""

    since = models.DateTimeField()
    why = models.CharField(max_length=300)
    #: the numbers and names that tell it
    detail = models.CharField(max_length=500, blank=True, default="", db_default="")
    released_at = models.DateTimeField(null=True)
    released_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["why"], condition=Q(released_at=None), name="sweep_hold_once"),
        ]


class DatabaseIdentity(models.Model):
    """Which database this was when the sweeper last looked: another one was put back from a copy. One row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    system = models.CharField(max_length=80)
    noted_at = models.DateTimeField()


class GuestPass(models.Model):
    """A machine's one chance to fetch its secrets: the token's SHA-256, and when it was used.

    Written by `instances.guest_reports` alone. A new attempt to make the machine makes a new pass.
    """

    token_hash = models.CharField(max_length=64, primary_key=True)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="passes")
    made_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    used_from = models.GenericIPAddressField(null=True)
    #: the SHA-256 of the random word the machine that used it made for itself: with the same word it may ask again when
    #: the answer was lost, until it has said that it has it
    claim_hash = models.CharField(max_length=64, blank=True, default="", db_default="")


class ConsoleExcerpt(models.Model):
    """The end of a machine's serial console as a worker last read it: hostile text, kept for minutes, for support.

    Written by `instances.guest_reports` alone: where a machine says nothing over the network, and on request.
    """

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="console")
    asked_at = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)
    text = models.TextField(blank=True, default="")


class GuestReport(models.Model):
    """What a machine said of one step of its own boot: the last word for each step.

    Hostile text: a machine belongs to whoever works on it. Shown, never believed beyond this machine.
    """

    class Step(models.TextChoices):
        BOOTED = "booted", _("booted")
        NETWORK = "network", _("network")
        MOUNTS = "mounts", _("data")
        SOFTWARE = "software", _("software")
        DESKTOP = "desktop", _("desktop")

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="reports")
    step = models.CharField(max_length=10, choices=Step)
    ok = models.BooleanField()
    #: what the fault is about, such as "/data/10.5072/abc"; empty where all is well
    subject = models.CharField(max_length=200, blank=True, default="")
    text = models.CharField(max_length=300, blank=True)
    at = models.DateTimeField()
    #: heard over the network, or read from the serial console
    heard = models.CharField(max_length=10, choices=[("network", "network"), ("console", "console")])

    class Meta:
        ordering: ClassVar[list[str]] = ["at", "id"]
        constraints = [models.UniqueConstraint(fields=["instance", "step", "subject"], name="guest_report_once")]


class InstanceEvent(models.Model):
    """Something that happened to a machine, in its order. `kind` says what: "wanted.stopped", "seen.ready"."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    text = models.CharField(max_length=300, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["at", "id"]
        indexes = [models.Index(fields=["instance", "at"], name="event_instance_at")]

    @override
    def __str__(self) -> str:
        return f"{self.kind} {self.at:%Y-%m-%d %H:%M:%S}"


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

    @override
    def __str__(self) -> str:
        return f"{self.person} → {self.instance}"


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

    @override
    def __str__(self) -> str:
        return f"{self.grant} {self.opened_at:%Y-%m-%d %H:%M:%S}"
