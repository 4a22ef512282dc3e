"""Sizes, limits and what is used of them. Subjects are named by (kind, key), so that nothing here looks upward."""

from datetime import timedelta
from typing import ClassVar

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _
from typing_extensions import override

from quotas.arithmetic import DIMENSIONS, Resources


class Flavour(models.Model):
    """A size of machine, as administrators offer it. `cloud_name` is the flavour's name at the cloud."""

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=60, help_text=_("What people read, such as “Small”."))
    description = models.CharField(max_length=200, blank=True)
    cloud_name = models.CharField(
        max_length=100, help_text=_("The flavour's name at the cloud."), validators=[RegexValidator(r"^[\w.:-]+$")]
    )
    cores = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"), validators=[MinValueValidator(64)])
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"), default=10)
    gpus = models.PositiveIntegerField(_("GPUs"), default=0)
    enabled = models.BooleanField(default=True, help_text=_("People may start machines of this size."))
    position = models.PositiveSmallIntegerField(default=0, help_text=_("Smaller numbers come first."))
    build_minutes = models.PositiveSmallIntegerField(
        _("build time (minutes)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("How long the cloud may take to make one before it is made anew; empty for 15 minutes."),
    )

    class Meta:
        ordering: ClassVar[list[str]] = ["position", "cores", "memory_mib", "slug"]

    @override
    def __str__(self) -> str:
        return self.name

    @property
    def build_time(self) -> timedelta | None:
        """How long the cloud may take to make one; None for what is usual."""
        return None if self.build_minutes is None else timedelta(minutes=self.build_minutes)

    @property
    def resources(self) -> Resources:
        return Resources(machines=1, cores=self.cores, memory_mib=self.memory_mib, gpus=self.gpus)


class Limit(models.Model):
    """How much a person may have at once: everyone, everyone with a role, or one person."""

    class Kind(models.TextChoices):
        EVERYONE = "everyone", _("everyone")
        ROLE = "role", _("people with a role")
        PERSON = "person", _("one person")

    kind = models.CharField(max_length=10, choices=Kind)
    key = models.CharField(
        max_length=64, blank=True, help_text=_("A role's name, or a person's id; empty for everyone.")
    )
    machines = models.PositiveIntegerField(default=0)
    cores = models.PositiveIntegerField(default=0)
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"), default=0)
    gpus = models.PositiveIntegerField(_("GPUs"), default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "key"], name="limit_kind_key"),
            models.CheckConstraint(
                condition=(models.Q(kind="everyone") & models.Q(key=""))
                | (~models.Q(kind="everyone") & ~models.Q(key="")),
                name="limit_everyone_has_no_key",
                violation_error_message=_("A role or a person needs a key; everyone has none."),
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.key}".strip()

    @property
    def resources(self) -> Resources:
        return Resources(**{name: getattr(self, name) for name in DIMENSIONS})


class Allowance(models.Model):
    """What one person uses of everything that is counted: one row, so that one conditional UPDATE takes all or nothing.

    The limit is not stored here: it is worked out from `Limit` at each request, so that a change has effect at once.
    """

    person = models.CharField(max_length=64, unique=True)
    machines = models.IntegerField(default=0)
    cores = models.IntegerField(default=0)
    memory_mib = models.IntegerField(default=0)
    gpus = models.IntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(**{f"{name}__gte": 0 for name in DIMENSIONS}), name="allowance_never_negative"
            )
        ]

    @property
    def used(self) -> Resources:
        return Resources(**{name: getattr(self, name) for name in DIMENSIONS})


class Reservation(models.Model):
    """What one machine holds of its owner's allowance. It is given back once, when the machine can no longer exist."""

    holder = models.UUIDField(unique=True)
    person = models.CharField(max_length=64, db_index=True)
    machines = models.PositiveIntegerField()
    cores = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    gpus = models.PositiveIntegerField()
    reserved_at = models.DateTimeField(auto_now_add=True)

    @property
    def resources(self) -> Resources:
        return Resources(**{name: getattr(self, name) for name in DIMENSIONS})
