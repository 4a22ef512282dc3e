"""Sizes and limits, editable with effect at the next request."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import CharField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from typing_extensions import override

from quotas.models import Allowance, Flavour, Limit
from visa.accounts.models import User
from visa.audit.admin import Audited


class KeptInUse(Audited):
    """What machines were made with stays, since their stories name it; it is switched off instead."""

    @override
    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        found = self.get_object(request, object_id)
        if found is not None and (sentence := self._in_use(found)):
            self.message_user(request, sentence, messages.ERROR)
            return redirect(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", object_id)
        return super().delete_view(request, object_id, extra_context)

    @override
    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """What a deletion of several would take along; in the way stand those in use, each in one sentence."""
        found = list(objs)
        to_delete, counts, missing, _protected = super().get_deleted_objects(found, request)
        in_use = [sentence for one in found if (sentence := self._in_use(one))]
        # What stands in the way is not a right of the administrator's that is missing.
        return to_delete, counts, set() if in_use else missing, in_use

    def _in_use(self, found: Any) -> str:
        """Why it cannot go; empty where it can."""
        number = found.instances.count()
        if not number:
            return ""
        return ngettext(
            "%(n)s machine was made with “%(name)s”, deleted ones counted. Switch it off: then nobody is offered it.",
            "%(n)s machines were made with “%(name)s”, deleted ones counted. Switch it off: then nobody is offered it.",
            number,
        ) % {"n": number, "name": found}


class _WithNames(admin.ModelAdmin[Any]):
    """Rows that name a person by their id, with the person's name beside it, in the list's own query."""

    #: the field that holds the id
    person_field = "person"

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        people = User.objects.annotate(key=Cast("public_id", CharField())).filter(key=OuterRef(self.person_field))
        named: QuerySet[Any] = super().get_queryset(request).annotate(person_name=Subquery(people.values("name")[:1]))
        return named

    @admin.display(description=_("person"), ordering="person_name")
    def who(self, row: Any) -> str:
        return str(row.person_name or getattr(row, self.person_field))


@admin.register(Flavour)
class FlavourAdmin(KeptInUse):
    audit_values = (
        *("slug", "cores", "memory_mib", "disk_gib", "gpus", "cloud_name", "enabled", "position", "build_minutes"),
    )
    list_display = ["name", "slug", "cores", "memory_mib", "disk_gib", "gpus", "cloud_name", "enabled", "position"]
    list_filter = ["enabled"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Limit)
class LimitAdmin(Audited, _WithNames):
    person_field = "key"
    audit_values = ("kind", "machines", "cores", "memory_mib", "gpus")
    list_display = ["kind", "who", "machines", "cores", "memory_mib", "gpus"]
    list_filter = ["kind"]


@admin.register(Allowance)
class AllowanceAdmin(_WithNames):
    """What people use now: to look at, never to edit."""

    list_display = ["who", "machines", "cores", "memory_mib", "gpus"]
    search_fields = ["person", "person_name"]

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Allowance | None = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Allowance | None = None) -> bool:
        return False
