"""The Django admin's frame: it has no passwords and no sign-in of its own."""

from typing import Any, NoReturn

from django.contrib.admin import AdminSite
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from typing_extensions import override

from visa.errors import NotAllowed, NotFound


class AdministrationSite(AdminSite):
    """The admin, for people whom the site's mapping of claims makes administrators."""

    @override
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.user.is_authenticated:
            message = _("Only administrators of this site may open this page.")
            raise NotAllowed(message, way_out=_("Your role comes from your identity provider, at each sign-in."))
        return redirect_to_login(request.GET.get("next", reverse("admin:index")), reverse("accounts:sign-in"))

    @override
    def logout(  # type: ignore[override] # the stubs know only its template
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return redirect("accounts:sign-out")

    @override
    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> NoReturn:
        raise NotFound(_("There are no passwords here."))

    @override
    def password_change_done(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> NoReturn:
        raise NotFound(_("There are no passwords here."))
