"""Datasets: their pages, the launch link, search, and a person's own experiments."""

import uuid
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from experiments import access as data_access
from experiments import doi as dois
from experiments.access import DatasetPage, Outcome
from instances import access, actions
from instances.forms import launch_wish, only
from instances.views.frame import page, person_of, personal
from instances.views.shown import Machine, bars, holds, lines, size, spoken
from quotas.allowances import QuotaExceeded
from visa.errors import Invalid, Refusal

#: lines of a list on one page
LINES = 25


def _moved(request: HttpRequest, address: str) -> HttpResponseRedirect:
    """To the one spelling of an address; the query goes along. Not for ever: a record may be minted anew."""
    query = request.META.get("QUERY_STRING", "")
    return HttpResponseRedirect(f"{address}?{query}" if query else address)


@page("GET")
def detail(request: HttpRequest, doi: str) -> HttpResponse:
    """A dataset under any spelling of its DOI."""
    found = data_access.dataset_for(request.user, doi)
    if doi != found.dataset.minted:
        return _moved(request, reverse("instances:dataset-home") + found.dataset.path)
    return render(request, "experiments/dataset_detail.html", _described(found))


def _described(found: DatasetPage) -> dict[str, object]:
    record = found.dataset
    return {
        "found": found,
        "dataset": record,
        "open": found.verdict.open,
        "amount": size(record.size_bytes) if record.size_bytes is not None else "",
        "launch_url": reverse("instances:launch-home") + record.path,
        "cite": " ".join(
            part
            for part in (
                f"{'; '.join(record.creators)}" if record.creators else "",
                f"({record.publication_year})." if record.publication_year else "",
                f"{record.title}.",
                f"{record.publisher}." if record.publisher else "",
                record.url,
            )
            if part
        ),
        "contact_url": f"mailto:{record.contact}"
        if "@" in record.contact and " " not in record.contact
        else record.contact
        if record.contact.startswith("https://")
        else "",
    }


@page("GET", "POST")
def launch(request: HttpRequest, doi: str = "") -> HttpResponse:
    """The launch link. Reading it changes nothing, signed in or not; its one button launches."""
    if request.method == "POST":
        return _launch(request, doi)
    only(request.GET, frozenset({"flavour", "image"} if doi else {"doi", "flavour", "image"}))
    if not doi:
        asked = dois.path(data_access.parse(request.GET.get("doi", "")))
        kept = request.GET.copy()
        kept.pop("doi", None)
        query = kept.urlencode()
        return HttpResponseRedirect(reverse("instances:launch-home") + asked + (f"?{query}" if query else ""))
    found = data_access.dataset_for(request.user, doi)
    if doi != found.dataset.minted:
        return _moved(request, reverse("instances:launch-home") + found.dataset.path)
    return _offered(request, found, flavour=request.GET.get("flavour", ""), image=request.GET.get("image", ""))


def _launch(request: HttpRequest, doi: str) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect(_sign_in(reverse("instances:launch-home") + dois.path(data_access.parse(doi))))
    wish = launch_wish(doi, request.POST)
    try:
        launched = actions.launch(wish, by=person_of(request))
    except QuotaExceeded as refusal:
        found = data_access.dataset_for(request.user, doi)
        return _offered(request, found, flavour=wish.flavour, image=wish.image, refusal=refusal)
    return redirect("instances:instance-detail", launched.instance_id)


def _sign_in(path: str) -> str:
    return f"{reverse('accounts:sign-in')}?next={quote(path, safe='')}"


def _offered(
    request: HttpRequest, found: DatasetPage, *, flavour: str, image: str, refusal: Refusal | None = None
) -> HttpResponse:
    """The launch page: the data, what would be had, and the allowance now and after."""
    context = _described(found)
    if found.outcome not in {Outcome.OPEN, Outcome.TEAM}:
        # Nothing can be launched: the dataset's own page says why and what would work.
        status = 403 if found.outcome is Outcome.CLOSED else 409
        return render(request, "experiments/dataset_detail.html", context, status=status)
    person = person_of(request) if request.user.is_authenticated else None
    offer = actions.offer(person)
    _known(flavour, {one.slug for one in offer.flavours}, "flavour")
    _known(image, {one.slug for one in offer.images}, "image")
    chosen = next((one for one in offer.flavours if (one.slug == flavour if flavour else one.proposed)), None)
    sizes = [
        {
            "offer": one,
            "holds": holds(one.resources.cores, one.resources.memory_mib, one.resources.gpus),
            "chosen": one is chosen,
            "bars": bars(offer.standing, one.after) if person else (),
        }
        for one in offer.flavours
    ]
    live = access.live_instance_of(person, found.dataset.id) if person else None
    fits = any(not one.shortfalls for one in offer.flavours)
    path = reverse("instances:launch-home") + found.dataset.path
    context |= {
        "sizes": sizes,
        "images": [{"offer": one, "chosen": one.slug == image if image else one.proposed} for one in offer.images],
        "usual": spoken(offer.usual_seconds) if offer.usual_seconds is not None else "",
        "live": Machine.of(live) if live else None,
        "fits": fits,
        "chosen_fits": chosen is not None and not chosen.shortfalls,
        "holding": [Machine.of(one) for one in access.instances_visible_to(person)] if person and not fits else [],
        "post_url": path,
        "sign_in_url": _sign_in(path),
        "key": uuid.uuid4().hex,
        "refusal": refusal,
    }
    return render(request, "experiments/dataset_launch.html", context, status=refusal.status if refusal else 200)


def _known(slug: str, known: set[str], field: str) -> None:
    if slug and slug not in known:
        words = {
            "flavour": _("There is no size called “%(slug)s” here."),
            "image": _("There is no software called “%(slug)s” here."),
        }
        raise Invalid(
            words[field] % {"slug": slug[:40]},
            way_out=_("Use the link without it; the launch page shows what there is."),
            field=field,
        )


def _place(request: HttpRequest) -> int:
    """Which part of a list is asked for, counted from 1; nonsense is the first."""
    text = request.GET.get("page", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) > 0 else 1


def _pages(place: int, total: int) -> dict[str, object]:
    last = max(1, -(-total // LINES))
    return {
        "place": place,
        "last": last,
        "before": place - 1,
        "after": place + 1 if place < last else 0,
        "total": total,
    }


@page("GET")
def search(request: HttpRequest) -> HttpResponse:
    """Open data, the same for everybody. A DOI goes straight to its page."""
    text = request.GET.get("q", "").strip()
    try:
        return HttpResponseRedirect(reverse("instances:dataset-home") + dois.path(dois.parse(text)))
    except dois.MalformedDoi:
        pass
    place = _place(request)
    found = data_access.search_open(text, offset=(place - 1) * LINES, limit=LINES)
    context = {"q": text, "lines": lines(found.items), **_pages(place, found.total)}
    return render(request, "experiments/dataset_search.html", context)


@personal("GET")
def experiments(request: HttpRequest) -> HttpResponse:
    """A person's own experiments, with their datasets."""
    place = _place(request)
    found = data_access.experiments_visible_to(request.user, offset=(place - 1) * LINES, limit=LINES)
    context = {"rows": [(one, lines(one.datasets)) for one in found.items], **_pages(place, found.total)}
    return render(request, "experiments/experiment_list.html", context)
