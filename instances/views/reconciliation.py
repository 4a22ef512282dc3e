"""Rows beside the cloud, for whoever looks after the site: what sweeps saw, what waits, and the release of a hold."""

from dataclasses import dataclass

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _

from instances import sweeps
from instances.sweeps import SweepView
from instances.views.frame import person_of, personal

#: the drawing's own units; the page gives it the width there is
WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The last sweeps as a drawing: one line for machines, one for servers, a mark where something was stray.

    `most` is the number at its upper edge.
    """

    most: int
    machines: str
    servers: str
    strays: tuple[tuple[str, str], ...]


@personal("GET")
def show(request: HttpRequest) -> HttpResponse:
    report = sweeps.report_for(person_of(request))
    return render(
        request,
        "instances/reconciliation.html",
        {
            "report": report,
            "last": report.sweeps[0] if report.sweeps else None,
            "plot": plot(report.sweeps),
            "waiting": [one for one in report.sightings if one.open],
            "over": [one for one in report.sightings if not one.open],
        },
    )


@personal("GET", "POST")
def release(request: HttpRequest, hold_id: int) -> HttpResponse:
    """A GET (a reload, a sign-in on the way) releases nothing and shows the page."""
    person = person_of(request)
    if request.method != "POST":
        sweeps.report_for(person)
    elif sweeps.release(hold_id, by=person):
        messages.success(request, _("Released. The next sweeps delete what they may."))
    else:
        messages.info(request, _("That was released before."))
    return redirect("instances:reconciliation")


def plot(shown: tuple[SweepView, ...]) -> Plot | None:
    """The drawing of these sweeps, oldest at the left; None where fewer than two tell nothing."""
    if len(shown) < 2:
        return None
    oldest_first = shown[::-1]
    first = oldest_first[0].at
    span = (shown[0].at - first).total_seconds() or 1.0
    most = max(1, *(max(one.rows, one.servers, one.strays) for one in shown))

    def at(one: SweepView, number: int) -> tuple[str, str]:
        across = (one.at - first).total_seconds() / span * WIDTH
        return f"{across:.1f}", f"{HEIGHT - number / most * HEIGHT:.1f}"

    return Plot(
        most=most,
        machines=" ".join(",".join(at(one, one.rows)) for one in oldest_first),
        servers=" ".join(",".join(at(one, one.servers)) for one in oldest_first),
        strays=tuple(at(one, one.strays) for one in shown if one.strays),
    )
