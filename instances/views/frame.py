"""What every page needs around it: who may ask, by what method, and from where."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from visa.accounts.models import User
from visa.errors import NotAllowed, Refusal

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


class WrongMethod(Refusal):
    """The address exists, and does not answer to this method."""

    code, status, title = "wrong_method", 405, gettext_noop("Not like this")


class FromElsewhere(NotAllowed):
    """A form that another site sent."""

    code = "from_elsewhere"


def person_of(request: HttpRequest) -> User:
    """The person who is signed in; only behind `personal`."""
    return cast("User", request.user)


def page(*methods: str) -> Callable[[View[P]], View[P]]:
    """A page for everybody that answers to `methods`; whatever changes something must come from a page of ours.

    The CSRF token and the cookie's SameSite hold that already; a browser that says outright that another site sent the
    form is believed at once (Fetch Metadata, W3C).
    """

    def around(view: View[P]) -> View[P]:
        @wraps(view)
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            method = "GET" if request.method == "HEAD" else request.method
            if method not in methods:
                raise WrongMethod(
                    _("This address cannot be asked in that way."), way_out=_("Start from the home page.")
                )
            if method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
                raise FromElsewhere(
                    _("This form was sent by another site. Nothing was changed."),
                    way_out=_("Open the page here and use its own button."),
                )
            response = view(request, *args, **kwargs)
            # What a person sees is theirs: no cache keeps it, and going back shows what is true then.
            patch_cache_control(response, private=True, no_store=True)
            return response

        return answer

    return around


def personal(*methods: str) -> Callable[[View[P]], View[P]]:
    """A page for somebody signed in. Others are sent to sign in and come back here."""

    def around(view: View[P]) -> View[P]:
        @page(*methods)
        @wraps(view)
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if request.user.is_authenticated:
                return view(request, *args, **kwargs)
            if request.headers.get("HX-Request"):
                # A fragment cannot follow the way to a provider; its page can.
                return HttpResponse(status=401, headers={"HX-Refresh": "true"})
            return redirect_to_login(request.get_full_path())

        return answer

    return around
