"""The door: the trail for administrators, to read and nothing else."""

import json
from datetime import date
from urllib.parse import urlencode

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from visa.audit import pages
from visa.audit.pages import Wanted
from visa.errors import Invalid, NotAllowed


@require_safe
def trail(request: HttpRequest) -> HttpResponse:
    """Rows newest first, a page at a time."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not request.user.is_staff:
        message = _("Only administrators of this site may read the audit trail.")
        raise NotAllowed(message, way_out=_("Your role comes from your identity provider, at each sign-in."))
    wanted = _wanted(request)
    found = pages.page(wanted)
    asked = {
        "person": wanted.person,
        "thing": wanted.thing,
        "day": wanted.day.isoformat() if wanted.day else "",
    }
    kept = {key: value for key, value in asked.items() if value}
    older = urlencode(kept | {"before": found.older}) if found.older else ""
    context = {
        "asked": asked,
        "filtered": bool(kept),
        "newest": urlencode(kept) if wanted.before is not None else None,
        "older": older,
        "rows": [(row, json.dumps(row.detail, ensure_ascii=False) if row.detail else "") for row in found.rows],
    }
    response = render(request, "audit/trail.html", context)
    patch_cache_control(response, private=True, no_store=True)
    return response


def _wanted(request: HttpRequest) -> Wanted:
    asked = {name: request.GET.get(name, "").strip().replace("\x00", "") for name in ("person", "thing")}
    day, before = request.GET.get("day", "").strip(), request.GET.get("before", "").strip()
    try:
        return Wanted(
            person=asked["person"][:64],
            thing=asked["thing"][:120],
            day=_day(day) if day else None,
            before=_cursor(before) if before else None,
        )
    except ValueError as error:
        raise Invalid(
            _("This is no day or no place in the trail."), way_out=_("Write a day as 2026-11-21, or leave it out.")
        ) from error


def _day(text: str) -> date:
    day = date.fromisoformat(text)
    if day == date.max:
        raise ValueError(text)  # it has no end that could be written
    return day


def _cursor(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**63:
        raise ValueError(text)
    return number
