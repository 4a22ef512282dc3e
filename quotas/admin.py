"""Sizes and limits, editable with effect at the next request."""

from django.contrib import admin
from django.http import HttpRequest
from typing_extensions import override

from quotas.models import Allowance, Flavour, Limit
from visa.audit.admin import Audited


@admin.register(Flavour)
class FlavourAdmin(Audited):
    audit_values = ("slug", "cores", "memory_mib", "disk_gib", "gpus", "cloud_name", "enabled", "position")
    list_display = ["name", "slug", "cores", "memory_mib", "disk_gib", "gpus", "cloud_name", "enabled", "position"]
    list_filter = ["enabled"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Limit)
class LimitAdmin(Audited):
    audit_values = ("kind", "machines", "cores", "memory_mib", "gpus")
    list_display = ["kind", "key", "machines", "cores", "memory_mib", "gpus"]
    list_filter = ["kind"]


@admin.register(Allowance)
class AllowanceAdmin(admin.ModelAdmin[Allowance]):
    """What people use now: to look at, never to edit."""

    list_display = ["person", "machines", "cores", "memory_mib", "gpus"]
    search_fields = ["person"]

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Allowance | None = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Allowance | None = None) -> bool:
        return False
