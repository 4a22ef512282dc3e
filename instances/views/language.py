"""In which language a browser reads this site."""

from django.http import HttpRequest, HttpResponseBase
from django.views.i18n import set_language

from instances.views.frame import page


@page("POST")
def choose(request: HttpRequest) -> HttpResponseBase:
    """Django's own view, which answers every method: a cookie with the language, and back to the page."""
    return set_language(request)
