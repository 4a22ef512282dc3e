"""People in the Django admin: to look at, and to close an account. What a provider states is not edited here."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from typing_extensions import override

from visa.accounts import sign_ins
from visa.accounts.models import Identity, User
from visa.audit.admin import Audited

# Rights come from the site's mapping of claims; a second place to give them by hand would be a way around it.
admin.site.unregister(Group)


class IdentityInline(admin.TabularInline[Identity, User]):
    model = Identity
    fields = readonly_fields = ("issuer", "subject", "voperson_id", "groups", "affiliations", "assurance", "seen_at")
    extra = 0
    can_delete = False

    @override
    def has_add_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(Audited):
    audit_values = ("is_active",)
    list_display = ("name", "email", "roles", "is_active", "last_login")
    list_filter = ("is_active", "is_staff")
    search_fields = ("name", "email", "identities__subject", "identities__voperson_id")
    fields = ("name", "email", "public_id", "roles", "is_active", "joined_at", "last_login")
    readonly_fields = ("name", "email", "public_id", "roles", "joined_at", "last_login")
    inlines = (IdentityInline,)

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    @override
    def audit_name(self, obj: User) -> object:
        return obj.public_id

    @override
    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not obj.is_active:
            # the account is closed from now on, not from the next sign-in on
            sign_ins.end_all_of(obj, cause="account closed", by=request.user)  # type: ignore[arg-type] # staff
