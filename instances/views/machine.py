"""One machine: its page, the same as a fragment, what can be done with it, and its desktop."""

from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from instances import access, actions
from instances.forms import DeleteForm
from instances.lifecycle import Permission
from instances.views.frame import person_of, personal
from instances.views.shown import Machine
from visa.accounts.models import User
from visa.errors import Invalid


@personal("GET")
def detail(request: HttpRequest, instance_id: UUID) -> HttpResponse:
    machine = Machine.of(access.instance_for(person_of(request), instance_id))
    return render(request, "instances/instance_detail.html", {"machine": machine})


@personal("GET")
def progress(request: HttpRequest, instance_id: UUID) -> HttpResponse:
    """What `detail` shows, alone: asked again by the page whenever the machine changed."""
    try:
        machine = Machine.of(access.instance_for(person_of(request), instance_id))
    except access.NoSuchMachine:
        # It was deleted while somebody watched: their page goes where its machines are.
        return HttpResponse(headers={"HX-Redirect": reverse("home")})
    return render(request, "instances/_instance.html", {"machine": machine})


def _verb(act: Callable[..., object]) -> Callable[[HttpRequest, UUID], HttpResponseBase]:
    """The address of one verb. A GET (a reload, a sign-in on the way) does nothing and shows the machine."""

    @personal("GET", "POST")
    def answer(request: HttpRequest, instance_id: UUID) -> HttpResponse:
        if request.method == "POST":
            # The machine's own page says what it is doing, and goes on saying what is true.
            act(instance_id, by=person_of(request))
        else:
            access.instance_for(person_of(request), instance_id)
        return redirect("instances:instance-detail", instance_id)

    return answer


start = _verb(actions.start)
stop = _verb(actions.stop)
reboot = _verb(actions.reboot)
console = _verb(actions.read_console)


@personal("GET", "POST")
def delete(request: HttpRequest, instance_id: UUID) -> HttpResponse:
    """Asks first, says what is lost, and of whom; whoever deletes another's says why."""
    person = person_of(request)
    machine = _deletable(person, instance_id)
    form = DeleteForm(request.POST) if request.method == "POST" else DeleteForm()
    if request.method == "POST" and form.is_valid():
        try:
            actions.delete(instance_id, by=person, why=form.cleaned_data["reason"])
        except Invalid as fault:
            form.add_error("reason", fault.message)
        else:
            messages.success(request, _("“%(name)s” is being deleted.") % {"name": machine.name})
            return redirect("home" if machine.is_owner else "instances:instance-list")
    status = 400 if form.errors else 200
    return render(request, "instances/instance_delete.html", {"machine": machine, "form": form}, status=status)


def _deletable(person: User, instance_id: UUID) -> Machine:
    return Machine.of(access.instance_for(person, instance_id, to=Permission.DELETE))


@personal("GET")
def desktop(request: HttpRequest, instance_id: UUID) -> HttpResponse:
    machine = Machine.of(access.instance_for(person_of(request), instance_id, to=Permission.CONNECT))
    if not machine.can_connect:
        messages.warning(
            request, _("The desktop is not there yet; the machine is: %(state)s.") % {"state": machine.state_words}
        )
        return redirect("instances:instance-detail", instance_id)
    return render(
        request,
        "instances/instance_desktop.html",
        {
            "instance": machine,
            "tickets_url": reverse("instances-api:instance-tickets", args=[instance_id]),
            "back_url": reverse("instances:instance-detail", args=[instance_id]),
        },
    )
