"""The first page: what a visitor finds, or a person's machines and allowance."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from instances import access, actions
from instances.views.frame import page, person_of
from instances.views.shown import Machine, bars


@page("GET")
def home(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return render(request, "welcome.html")
    person = person_of(request)
    machines = [Machine.of(one) for one in access.instances_visible_to(person)]
    return render(
        request,
        "home.html",
        {
            "machines": machines,
            # One primary action a page: with a single machine it is that machine's.
            "lone": len(machines) == 1 and machines[0].can_connect,
            "any_busy": any(one.busy for one in machines),
            "looks_after_all": access.looks_after_all(person),
            "bars": bars(actions.offer(person).standing),
        },
    )
