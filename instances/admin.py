"""Images to edit; machines, their story and their open desktops to look at.

A machine's row is never edited here: what is wanted of it is asked for through `instances.actions`.
"""

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from typing_extensions import override

from instances.models import AccessGrant, Connection, Image, Instance, InstanceEvent, Sighting, Sweep, SweepHold
from quotas.admin import KeptInUse


@admin.register(Image)
class ImageAdmin(KeptInUse):
    audit_values = ("slug", "cloud_name", "enabled", "position")
    list_display = ["name", "slug", "cloud_name", "enabled", "position"]
    prepopulated_fields = {"slug": ["name"]}


class _ToLookAt(admin.ModelAdmin[Any]):
    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Instance)
class InstanceAdmin(_ToLookAt):
    list_display = ["name", "owner", "state", "wanted", "seen", "seen_at", "flavour", "created_at", "reason"]
    list_filter = ["state", "flavour", "image"]
    list_select_related = ["owner", "flavour"]
    search_fields = ["name", "owner__name", "id", "server_id"]
    exclude = ["desktop_secret", "launch_key"]


@admin.register(InstanceEvent)
class InstanceEventAdmin(_ToLookAt):
    list_display = ["at", "instance", "kind", "text", "by"]
    list_select_related = ["instance", "by"]
    search_fields = ["instance__id"]


@admin.register(AccessGrant)
class AccessGrantAdmin(_ToLookAt):
    list_display = ["instance", "person", "role", "made_at", "ends_at", "revoked_at", "cause"]
    list_select_related = ["instance", "person"]
    exclude = ["session_hash"]


@admin.register(Connection)
class ConnectionAdmin(_ToLookAt):
    list_display = ["grant", "opened_at", "seen_at", "closed_at", "cause"]
    list_select_related = ["grant__instance", "grant__person"]


@admin.register(Sweep)
class SweepAdmin(_ToLookAt):
    list_display = ["at", "rows", "servers", "ports", "volumes", "strays", "swept", "ghosts", "held"]
    date_hierarchy = "at"


@admin.register(Sighting)
class SightingAdmin(_ToLookAt):
    list_display = ["kind", "name", "verdict", "why", "made_at", "first_seen_at", "last_seen_at", "times_seen"]
    list_filter = ["verdict", "kind"]
    search_fields = ["name", "provider_id", "instance_id"]


@admin.register(SweepHold)
class SweepHoldAdmin(_ToLookAt):
    list_display = ["since", "why", "detail", "released_at", "released_by"]
    list_select_related = ["released_by"]
