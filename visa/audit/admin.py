"""What administrators change in the Django admin has its row in the trail: a mixin for every form that does."""

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from typing_extensions import override

from visa.audit import trail
from visa.audit.trail import Deed


class Audited(admin.ModelAdmin[Any]):
    """Records additions, changes and deletions: which fields, and the values of those that are nobody's own."""

    #: fields whose values before and after are told; of all others only the name, since they may be personal
    audit_values: ClassVar[Collection[str]] = ()

    def audit_name(self, obj: Any) -> object:
        """The public id of an object: its slug where it has one."""
        return getattr(obj, "slug", "") or obj.pk

    @property
    def _kind(self) -> str:
        return self.model._meta.model_name or ""

    @override
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        fields = list(form.changed_data)
        detail: dict[str, Any] = {"fields": fields}
        told = [name for name in fields if name in self.audit_values]
        if told:
            detail["after"] = {name: _plain(form.cleaned_data.get(name)) for name in told}
            if change:
                detail["before"] = {name: _plain(form.initial.get(name)) for name in told}
        self._record(request, "change" if change else "add", [obj], detail)

    @override
    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self._record(request, "delete", [obj], {})
        super().delete_model(request, obj)

    @override
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._record(request, "delete", queryset, {})
        super().delete_queryset(request, queryset)

    def _record(self, request: HttpRequest, verb: str, objects: Iterable[Model], detail: dict[str, Any]) -> None:
        actor = getattr(request.user, "public_id", "")
        trail.record_all(
            [
                Deed(
                    action=f"{self._kind}.{verb}",
                    kind=self._kind,
                    object_id=self.audit_name(obj),
                    actor=actor,
                    detail=detail,
                )
                for obj in objects
            ]
        )


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | bool) or value is None else str(value)
