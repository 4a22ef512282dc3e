"""All machines of the site, for those who look after them."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from instances import access
from instances.forms import roll_wish
from instances.views.frame import person_of, personal
from instances.views.shown import Machine


@personal("GET")
def roll(request: HttpRequest) -> HttpResponse:
    wish = roll_wish(request.GET)
    found = access.roll_for(person_of(request), state=wish.state, owner=wish.owner, after=wish.after)
    return render(
        request,
        "instances/instance_list.html",
        {
            "machines": [Machine.of(one) for one in found.machines],
            "counts": found.counts,
            "total": sum(number for *_, number in found.counts),
            "after": found.after,
            "wish": wish,
        },
    )
