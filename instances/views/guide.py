"""The help page."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from instances.views.frame import page


@page("GET")
def guide(request: HttpRequest) -> HttpResponse:
    return render(request, "help.html", {"launch": f"{settings.SITE.url}/launch/"})
