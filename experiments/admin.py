"""Administrators' forms for data. Records come from imports; here a site trusts a source, rules on a dataset, or mends.

No editing in lists: each change goes through a form with its checks, and is logged with who made it.
"""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from typing_extensions import override

from experiments import doi, mounts, openness
from experiments.models import (
    Dataset,
    Experiment,
    Facility,
    Instrument,
    InstrumentScientist,
    Participant,
    Source,
    Technique,
)
from visa.audit.admin import Audited


class FacilityForm(forms.ModelForm[Facility]):
    """A facility, with a zone that exists."""

    class Meta:
        model = Facility
        fields = ("slug", "name", "timezone", "contact")

    def clean_timezone(self) -> str:
        name: str = self.cleaned_data["timezone"]
        if name and openness.zone_named(name) is None:
            raise ValidationError(_("There is no zone of this name; one is Europe/Paris."))
        return name


class DatasetForm(forms.ModelForm[Dataset]):
    """A dataset, with its DOI and its path checked as an import checks them."""

    landing_url = forms.URLField(required=False, max_length=1000, assume_scheme="https")

    class Meta:
        model = Dataset
        fields = (
            "minted",
            "source",
            "kind",
            "title",
            "creators",
            "publisher",
            "publication_year",
            "licence",
            "facility",
            "instrument",
            "experiment",
            "techniques",
            "size_bytes",
            "files",
            "path",
            "landing_url",
            "contact",
            "metadata_public",
            "available",
            "withdrawn",
            "rights",
            "flags",
            "tombstone",
            "harvested_at",
            "ruling",
            "ruling_reason",
            "withdrawn_at",
        )

    def clean_minted(self) -> str:
        try:
            parsed = doi.parse(self.cleaned_data["minted"])
        except doi.MalformedDoi as error:
            raise ValidationError(_("This is no DOI.")) from error
        self.instance.key = parsed.key
        return parsed.minted

    def clean_path(self) -> str:
        path: str = self.cleaned_data["path"]
        if not path:
            return path
        try:
            return mounts.checked(path)
        except mounts.UnsafePath as error:
            raise ValidationError(_("This path could leave the site’s storage.")) from error

    @override
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("ruling") and not cleaned.get("ruling_reason"):
            self.add_error("ruling_reason", _("A ruling needs its reason; it is shown to nobody but staff."))
        if not cleaned.get("ruling"):
            cleaned["ruling_reason"] = ""
        return cleaned


@admin.register(Dataset)
class DatasetAdmin(Audited):
    """Datasets. A ruling is stamped with who made it, and when."""

    audit_values = ("minted", "path", "ruling", "metadata_public", "withdrawn_at")
    form = DatasetForm
    list_display = ("minted", "title", "facility", "kind", "opens_at", "closes_at", "ruling")
    list_filter = ("facility", "source", "kind", "ruling", "metadata_public")
    search_fields = ("key", "title")
    list_select_related = ("facility",)
    autocomplete_fields = ("experiment", "instrument", "techniques")
    readonly_fields = ("key", "opens_at", "closes_at", "ruling_by", "ruling_at")

    @override
    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        if {"ruling", "ruling_reason"} & set(form.changed_data):
            obj.ruling_by = request.user if obj.ruling else None  # type: ignore[assignment]  # staff are signed in
            obj.ruling_at = timezone.now() if obj.ruling else None
        super().save_model(request, obj, form, change)


@admin.register(Experiment)
class ExperimentAdmin(Audited):
    """Experiments."""

    list_display = ("title", "proposal", "instrument", "start", "end", "withdrawn_at")
    list_filter = ("instrument__facility", "source")
    list_select_related = ("instrument",)
    search_fields = ("title", "proposal", "source_key")
    autocomplete_fields = ("instrument",)


@admin.register(Participant)
class ParticipantAdmin(Audited):
    """Members of teams, as records name them."""

    list_display = ("experiment", "issuer", "subject", "voperson_id", "role")
    list_filter = ("role",)
    list_select_related = ("experiment",)
    search_fields = ("subject", "voperson_id", "experiment__title", "experiment__proposal")
    autocomplete_fields = ("experiment",)


@admin.register(InstrumentScientist)
class InstrumentScientistAdmin(Audited):
    """Who looks after an instrument."""

    list_display = ("instrument", "issuer", "subject", "voperson_id")
    list_select_related = ("instrument",)
    search_fields = ("subject", "voperson_id", "instrument__name")
    autocomplete_fields = ("instrument",)


@admin.register(Instrument)
class InstrumentAdmin(Audited):
    """Instruments."""

    list_display = ("name", "facility", "slug")
    list_filter = ("facility",)
    list_select_related = ("facility",)
    search_fields = ("name", "slug", "facility__name")


@admin.register(Facility)
class FacilityAdmin(Audited):
    """Facilities. Another zone moves the moment at which its data open."""

    audit_values = ("slug", "timezone")
    form = FacilityForm
    list_display = ("name", "slug", "timezone", "contact")
    search_fields = ("name", "slug")


@admin.register(Source)
class SourceAdmin(Audited):
    """Sources of records, and whether their flags are trusted to open data."""

    audit_values = ("slug", "trusts_flags")
    list_display = ("name", "slug", "trusts_flags", "imported_at")
    readonly_fields = ("imported_at",)


@admin.register(Technique)
class TechniqueAdmin(Audited):
    """Techniques."""

    list_display = ("name", "pid")
    search_fields = ("name", "pid")
