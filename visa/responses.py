"""A Refusal becomes JSON or a page here, and nowhere else."""

import logging
import secrets
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.defaultfilters import filesizeformat
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from psycopg.errors import ReadOnlySqlTransaction
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from visa.audit import origins
from visa.errors import Invalid, NotAllowed, NotFound, Refusal, TooLarge, Unavailable

log = logging.getLogger(__name__)

#: seconds after which a program may try again where the database is away (RFC 9110 section 10.2.3)
RETRY_AFTER = "30"


def site(request: HttpRequest) -> dict[str, object]:
    """What every template may say of this site."""
    return {"site": settings.SITE}


def body_of(refusal: Refusal) -> dict[str, object]:
    """A refusal as the API tells it: `{"code", "message", "way_out", "field", "detail"}`."""
    return {
        "code": refusal.code,
        "message": refusal.message,
        "way_out": refusal.way_out,
        "field": refusal.field,
        "detail": refusal.detail,
    }


def refuse(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """A refusal as a page, or as JSON below /api/."""
    if request.path.startswith("/api/"):
        return JsonResponse(body_of(refusal), status=refusal.status)
    return render(request, "refusal.html", {"refusal": refusal}, status=refusal.status)


def _is_away(exception: BaseException | None) -> bool:
    """Whether the database cannot be asked, or can be asked and takes no writes, as a standby or a full one does."""
    if isinstance(exception, InternalError):
        return isinstance(exception.__cause__, ReadOnlySqlTransaction)
    return isinstance(exception, OperationalError | InterfaceError)


def _away(exception: Exception) -> Unavailable:
    log.error("the database does not answer: %s", type(exception.__cause__ or exception).__name__)
    return Unavailable(_("Our database does not answer right now."), way_out=_("Try again in a minute."))


def database_away(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The database is away: no page can know who asks, so this one stands alone."""
    refusal = _away(exception)
    if request.path.startswith("/api/"):
        response = refuse(request, refusal)
    else:
        response = render(request, "503.html", {"refusal": refusal}, status=refusal.status)
    response.headers["Retry-After"] = RETRY_AFTER
    return response


class EdgeMiddleware:
    """What every answer says to browsers and caches, static files and errors included; and whose request it is of."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        told, peer = request.headers.get("X-Real-IP", ""), request.META.get("REMOTE_ADDR", "")
        source = origins.source_of(told, peer, behind_proxy=settings.SITE.secure)
        with origins.within(correlation=origins.named("request"), source=source) as origin:
            response = self.get_response(request)
        response.headers["X-Request-ID"] = origin.correlation
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if request.path.startswith("/api/") or "Cache-Control" not in response.headers:
            # Whatever does not say that it may be kept is somebody's own, refusals with their name above included.
            patch_cache_control(response, private=True, no_store=True)
        return response


class RefusalMiddleware:
    """Renders refusals raised in views."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if _is_away(exception):
            return database_away(request, exception)
        return refuse(request, exception) if isinstance(exception, Refusal) else None


#: what would work instead, by the code of an error of REST framework's own
_WAYS_OUT = {
    "not_authenticated": _lazy("Sign in with your browser, or send an access token as “Authorization: Bearer …”."),
    "authentication_failed": _lazy("Get a new access token from your identity provider."),
    "permission_denied": _lazy("Calls with a session need its form token in the header X-CSRFToken; or use a token."),
    "parse_error": _lazy("Send one JSON object in UTF-8."),
    "unsupported_media_type": _lazy("Send JSON, with “Content-Type: application/json”."),
    "body_too_large": _lazy("Send less; no request here needs as much."),
    "method_not_allowed": _lazy("The header Allow names the methods this address answers to."),
}


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's own errors and ours in the one shape of `body_of`."""
    if _is_away(exception):
        return Response(body_of(_away(exception)), status=Unavailable.status, headers={"Retry-After": RETRY_AFTER})
    if isinstance(exception, Refusal):
        return Response(body_of(exception), status=exception.status)
    response = drf_exception_handler(exception, context)
    if response is None:
        return None
    code, message, way_out, field, detail = "refused", "", "", "", {}
    if isinstance(exception, exceptions.ValidationError):
        code, message = "invalid", _("Some fields were not understood.")
        way_out = _("“detail.fields” says what is wrong with each.")
        detail = {"fields": response.data}
        field = next(iter(response.data), "") if isinstance(response.data, dict) else ""
        field = "" if field == "non_field_errors" else field
    elif isinstance(exception, Http404):
        code, message = "not_found", _("There is no such thing here.")
    elif isinstance(exception, exceptions.APIException):
        code, message = str(exception.get_codes()), str(exception.detail)
        way_out = str(_WAYS_OUT.get(code, ""))
    response.data = {"code": code, "message": message, "way_out": way_out, "field": field, "detail": detail}
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """A request that cannot be read at all: too large, too many fields, broken parts, a wrong host."""
    if isinstance(exception, RequestDataTooBig):
        message = _("This is more than we read: %(limit)s at most.") % {
            "limit": filesizeformat(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        }
        return refuse(request, TooLarge(message, way_out=_("Send less; no form here needs as much.")))
    message = _("This request cannot be read.")
    return refuse(request, Invalid(message, way_out=_("Go back, load the page again and send it once more.")))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's own no, of the admin for instance."""
    message = _("You may not open this page.")
    return refuse(request, NotAllowed(message, way_out=_("Ask an administrator of this site.")))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form that did not come from our own page, or from one left open too long."""
    message = _("This form was not sent from an open page of ours.")
    way_out = _("Go back, load the page again and send it once more. Nothing was changed.")
    return refuse(request, NotAllowed(message, way_out=way_out))


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """No such address."""
    message = _("There is no page at this address.")
    return refuse(request, NotFound(message, way_out=_("Start from the home page, or check the link.")))


def server_error(request: HttpRequest) -> HttpResponse:
    """A fault of ours. The page names a number that stands in the log too, and nothing else."""
    number = secrets.token_hex(4)
    log.error("page of server error %s shown for %s", number, request.path[:200])
    body = {
        "code": "fault",
        "message": _("Something went wrong on our side."),
        "way_out": "",
        "field": "",
        "detail": {"number": number},
    }
    if request.path.startswith("/api/"):
        return JsonResponse(body, status=500)
    return render(request, "500.html", {"number": number}, status=500)
