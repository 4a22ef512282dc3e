"""What people measured: facilities, instruments, experiments with their teams, and datasets with their DOIs.

Rows come from imports (`experiments.actions`); a few site decisions (trust in a source, rulings) from the admin.
People are named as (issuer, subject) or (issuer, voperson_id) in text, because a team is imported before its members
first sign in. Who may see what is asked in `experiments.access`, nowhere else.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q, Value
from django.utils.translation import gettext_lazy as _
from typing_extensions import override

from experiments import openness

_UPPER, _LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


class Source(models.Model):
    """Where records come from: one catalogue or one file's owner. `id` in the import file is `slug` here."""

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=200)
    #: Adapters exist that call every document public: a flag opens nothing until the site says that it means it here.
    trusts_flags = models.BooleanField(
        _("flags are trusted to open data"),
        default=False,
        help_text=_("Whether “is public” is the facility’s decision, and no default of its software."),
    )
    #: the harvest of what was imported last; an older file is refused
    imported_at = models.DateTimeField(null=True, blank=True)

    @override
    def __str__(self) -> str:
        return self.name

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and judge this source's datasets anew: trust is part of their verdict."""
        super().save(*args, **kwargs)
        judge_anew(Dataset.objects.filter(source=self))


class Facility(models.Model):
    """A facility. `timezone` is an IANA name; empty means unknown, and dates then open at the latest place on Earth."""

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=200)
    timezone = models.CharField(max_length=60, blank=True)
    contact = models.CharField(max_length=300, blank=True, help_text=_("Whom to ask about data: an address or a page."))

    class Meta:
        verbose_name_plural = _("facilities")

    @override
    def __str__(self) -> str:
        return self.name

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and judge this facility's datasets anew: a day begins in its zone."""
        super().save(*args, **kwargs)
        judge_anew(Dataset.objects.filter(facility=self))


class Instrument(models.Model):
    """A beamline or instrument of a facility."""

    facility = models.ForeignKey(Facility, on_delete=models.PROTECT, related_name="instruments")
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=200)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["facility", "slug"], name="instrument_facility_slug")]

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.facility_id})"


class NamedPerson(models.Model):
    """A person as a record names one: a subject, or a voPersonID, always together with the issuer that states it.

    A voPersonID counts only from the issuer named beside it; else any provider could assert somebody's.
    """

    issuer = models.CharField(max_length=300)
    subject = models.CharField(max_length=255, blank=True)
    voperson_id = models.CharField(max_length=255, blank=True)

    class Meta:
        abstract = True


class InstrumentScientist(NamedPerson):
    """Somebody who looks after an instrument, and sees what was measured there."""

    instrument = models.ForeignKey(Instrument, on_delete=models.CASCADE, related_name="scientists")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["instrument", "issuer", "subject", "voperson_id"], name="instrument_scientist_once"
            ),
            models.CheckConstraint(
                condition=~Q(issuer="") & ~(Q(subject="") & Q(voperson_id="")), name="instrument_scientist_is_named"
            ),
        ]


class Technique(models.Model):
    """A technique by its persistent identifier (PaNET: `http://purl.org/pan-science/PaNET/PaNETnnnnn`)."""

    pid = models.CharField(max_length=300, unique=True)
    name = models.CharField(max_length=200)

    @override
    def __str__(self) -> str:
        return self.name


class Experiment(models.Model):
    """One session of beam time, with its team. `public_id` is what leaves the house."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="experiments")
    source_key = models.CharField(max_length=200)
    proposal = models.CharField(max_length=200, blank=True)
    title = models.CharField(max_length=500)
    instrument = models.ForeignKey(Instrument, on_delete=models.PROTECT, related_name="experiments")
    start = models.DateField(null=True, blank=True)
    end = models.DateField(null=True, blank=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["source", "source_key"], name="experiment_source_key"),
            models.CheckConstraint(
                condition=Q(start__isnull=True) | Q(end__isnull=True) | Q(end__gte=F("start")),
                name="experiment_ends_after_start",
            ),
        ]

    @override
    def __str__(self) -> str:
        return self.title


class Participant(NamedPerson):
    """A member of an experiment's team."""

    class Role(models.TextChoices):
        LEADER = "leader", _("leader")
        MEMBER = "member", _("member")
        INSTRUMENT_SCIENTIST = "instrument_scientist", _("instrument scientist")

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="participants")
    role = models.CharField(max_length=30, choices=Role, default=Role.MEMBER)

    class Meta:
        indexes = [models.Index(fields=["issuer", "subject"], name="participant_identity")]
        constraints = [
            models.UniqueConstraint(fields=["experiment", "issuer", "subject", "voperson_id"], name="participant_once"),
            models.CheckConstraint(
                condition=~Q(issuer="") & ~(Q(subject="") & Q(voperson_id="")), name="participant_is_named"
            ),
            models.CheckConstraint(
                condition=Q(role__in=["leader", "member", "instrument_scientist"]), name="participant_role"
            ),
        ]


class DatasetQuerySet(models.QuerySet["Dataset"]):
    """Datasets, by what their stored window says."""

    def open_at(self, now: datetime) -> "DatasetQuerySet":
        """Those open to everybody at `now`."""
        return self.filter(Q(closes_at__isnull=True) | Q(closes_at__gt=now), opens_at__lte=now)


class Dataset(models.Model):
    """A dataset with a DOI, or what else a DOI of a facility may name (`kind`).

    What the source states about openness stands here as given. `opens_at` and `closes_at` are derived from it by
    `openness.window` at each save, so that lists can be filtered by the database; a launch asks `openness` again.
    """

    class Kind(models.TextChoices):
        DATASET = "dataset", _("dataset")
        COLLECTION = "collection", _("collection of datasets")
        INSTRUMENT = "instrument", _("instrument")
        AWARD = "award", _("award")
        TEXT = "text", _("text")
        SOFTWARE = "software", _("software")
        OTHER = "other", _("something else")

    class Ruling(models.TextChoices):
        OPEN = "open", _("open")
        CLOSED = "closed", _("closed")

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    key = models.CharField(_("DOI, folded"), max_length=512, unique=True)
    minted = models.CharField(_("DOI"), max_length=512)
    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="datasets")
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.DATASET)
    title = models.CharField(max_length=500)
    creators = ArrayField(models.CharField(max_length=300), default=list, blank=True)
    publisher = models.CharField(max_length=300, blank=True)
    publication_year = models.PositiveSmallIntegerField(null=True, blank=True)
    licence = models.CharField(max_length=200, blank=True)
    facility = models.ForeignKey(Facility, on_delete=models.PROTECT, related_name="datasets")
    instrument = models.ForeignKey(Instrument, on_delete=models.PROTECT, related_name="datasets", null=True, blank=True)
    experiment = models.ForeignKey(Experiment, on_delete=models.PROTECT, related_name="datasets", null=True, blank=True)
    techniques = models.ManyToManyField(Technique, related_name="datasets", blank=True)
    size_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    files = models.PositiveIntegerField(null=True, blank=True)
    path = models.CharField(
        max_length=1000,
        blank=True,
        help_text=_("Below the site's storage, relative. Empty: the data are held elsewhere."),
    )
    landing_url = models.URLField(max_length=1000, blank=True)
    contact = models.CharField(max_length=300, blank=True, help_text=_("Whom to ask; empty: the facility's contact."))
    metadata_public = models.BooleanField(
        default=False,
        help_text=_("Whether strangers may read the description of closed data; else it looks unknown."),
    )

    # What the source says about openness, as it said it.
    available = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    withdrawn = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    rights = ArrayField(models.CharField(max_length=500), default=list, blank=True)
    flags = models.JSONField(default=dict, blank=True)
    tombstone = models.BooleanField(default=False)
    harvested_at = models.DateTimeField()

    # What this site says about it.
    ruling = models.CharField(max_length=10, choices=Ruling, blank=True)
    ruling_reason = models.CharField(max_length=500, blank=True)
    ruling_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+", editable=False
    )
    ruling_at = models.DateTimeField(null=True, blank=True, editable=False)

    # Derived: see `judge`.
    opens_at = models.DateTimeField(null=True, blank=True, editable=False)
    closes_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: since when the source no longer lists it
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    objects = DatasetQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["opens_at"], name="dataset_opens_at")]
        constraints = [
            # ASCII only, as DOIs are folded: lower() would follow the database's language.
            models.CheckConstraint(
                condition=Q(key=Func(F("minted"), Value(_UPPER), Value(_LOWER), function="translate")),
                name="dataset_key_is_folded",
            ),
            models.CheckConstraint(condition=Q(key__regex=r"^10\.[0-9]{4,9}(\.[0-9]+)*/."), name="dataset_key_is_doi"),
            models.CheckConstraint(
                condition=~Q(path__startswith="/") & ~Q(path__regex=r"(^|/)\.{1,2}(/|$)|[\x01-\x1f\x7f]"),
                name="dataset_path_stays_below",
            ),
            models.CheckConstraint(
                condition=Q(ruling="", ruling_reason="") | (Q(ruling__in=["open", "closed"]) & ~Q(ruling_reason="")),
                name="dataset_ruling_has_reason",
            ),
        ]

    @override
    def __str__(self) -> str:
        return self.minted

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Judge, then save. `update_fields` that touch openness must name `opens_at` and `closes_at` too."""
        self.judge()
        super().save(*args, **kwargs)

    def facts(self) -> openness.Facts:
        """What `openness` needs to know of this record. Reads `source` and `facility`."""
        return openness.Facts(
            is_data=self.kind in {self.Kind.DATASET, self.Kind.COLLECTION},
            available=tuple(self.available),
            withdrawn=tuple(self.withdrawn),
            rights=tuple(self.rights),
            flags=tuple(self.flags.items()),
            flags_trusted=self.source.trusts_flags,
            harvested_at=self.harvested_at,
            tombstone=self.tombstone or self.withdrawn_at is not None,
            timezone=self.facility.timezone,
            ruling=openness.Ruling(self.ruling) if self.ruling else None,
        )

    def judge(self) -> None:
        """Write down when it opens and closes, as far as the record says."""
        window = openness.window(self.facts())
        self.opens_at, self.closes_at = window.opens_at, window.closes_at

    def verdict(self, now: datetime) -> openness.Verdict:
        """Whether the data are open at `now`, from the facts and not from the stored window."""
        return openness.verdict(self.facts(), now)


def judge_anew(datasets: Iterable[Dataset]) -> None:
    """Derive the windows of `datasets` again, after something outside their rows changed."""
    rows = datasets.select_related("source", "facility") if isinstance(datasets, models.QuerySet) else datasets
    changed = []
    for dataset in rows:
        before = (dataset.opens_at, dataset.closes_at)
        dataset.judge()
        if (dataset.opens_at, dataset.closes_at) != before:
            changed.append(dataset)
    Dataset.objects.bulk_update(changed, ["opens_at", "closes_at"], batch_size=500)
