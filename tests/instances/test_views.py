"""What people see: each page to each of the cast, what a link may ask, and what a page costs."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from experiments.models import Dataset
from instances import actions
from instances.actions import Launch
from instances.lifecycle import Wanted
from instances.models import Image, Instance, InstanceEvent
from quotas.models import Allowance, Flavour, Limit, Reservation
from tests import factories, machines
from visa.accounts.models import User

pytestmark = pytest.mark.django_db

Browse = Callable[[User], Client]


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset(title="Foam under a drop tower")


@pytest.fixture
def machine(owner: User, dataset: Dataset) -> str:
    return str(actions.launch(Launch(doi=dataset.minted), by=owner).instance_id)


def seen(instance_id: str, **changes: object) -> None:
    """The machine as some step has left it."""
    Instance.objects.filter(id=instance_id).update(**changes)


@contextmanager
def nothing_changes() -> Iterator[None]:
    """No row of what people have is written."""

    def rows() -> list[object]:
        return [
            sorted(Instance.objects.values_list("id", "wanted", "state", "reboot_wanted_at")),
            sorted(Reservation.objects.values_list("holder", flat=True)),
            sorted(Allowance.objects.values_list("person", "cores")),
            InstanceEvent.objects.count(),
        ]

    before = rows()
    yield
    assert rows() == before


def unnumbered(text: str) -> str:
    """A page without what is new each time it is made."""
    return re.sub(r'name="(csrfmiddlewaretoken|key)" value="[^"]+"', "", text)


def queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as caught:
        assert client.get(path).status_code == 200
    return len(caught)


# ------------------------------------------------------------------------------------------------------ the first page


def test_a_visitor_reads_without_a_session(client: Client, dataset: Dataset) -> None:
    for path in ("/", "/help/", "/search/", f"/data/{dataset.minted}", f"/launch/{dataset.minted}"):
        assert client.get(path).status_code == 200, path

    assert Session.objects.count() == 0
    assert set(client.cookies) <= {"visa-csrf"}


def test_home_shows_ones_own_machines_and_nobody_elses(
    browse_as: Browse, owner: User, stranger: User, machine: str
) -> None:
    mine = browse_as(owner).get("/").content.decode()
    theirs = browse_as(stranger).get("/").content.decode()

    assert "Foam under a drop tower" in mine
    assert "1 of 4 in use" in mine
    assert "Foam" not in theirs
    assert "You have no machine yet" in theirs


def test_home_costs_the_same_for_one_machine_and_for_five_hundred(browse_as: Browse, owner: User, machine: str) -> None:
    client = browse_as(owner)
    few = queries(client, "/")

    machines.make_many(Instance.objects.get(), 500)

    assert queries(client, "/") == few <= 12


def test_lists_of_data_cost_the_same_for_few_and_for_many(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    client = browse_as(owner)
    factories.make_dataset(experiment=factories.make_experiment(team=[owner]))
    search, experiments = queries(client, "/search/"), queries(client, "/experiments/")

    for _ in range(20):
        factories.make_dataset(experiment=factories.make_experiment(team=[owner]))

    assert queries(client, "/search/") == search
    assert queries(client, "/experiments/") == experiments


def test_a_list_offers_no_machine_for_data_that_were_withdrawn(browse_as: Browse, owner: User) -> None:
    experiment = factories.make_experiment(team=[owner])
    kept = factories.make_dataset(experiment=experiment, title="Kept")
    gone = factories.make_dataset(experiment=experiment, title="Taken back")
    gone.withdrawn = ["2021-01-01"]
    gone.save()

    page = browse_as(owner).get("/experiments/").content.decode()

    assert f'href="/launch/{kept.minted}"' in page
    assert "Taken back" in page
    assert "Withdrawn" in page
    assert f'href="/launch/{gone.minted}"' not in page


def test_launch_page_costs_the_same_for_any_number_of_sizes(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    client = browse_as(owner)
    few = queries(client, f"/launch/{dataset.minted}")

    for number in range(20):
        factories.make_flavour(slug=f"size-{number}", position=number + 1)

    assert queries(client, f"/launch/{dataset.minted}") == few


# ----------------------------------------------------------------------------------------------------- data and search


@pytest.mark.parametrize(
    ("spelling", "then"),
    [
        ("https://doi.org/10.5555/Sample-X", "10.5555/Sample-X"),
        ("doi:10.5555/SAMPLE-x", "10.5555/Sample-X"),
        ("10.5555%2Fsample-x.", "10.5555/Sample-X"),
    ],
)
def test_any_spelling_leads_to_the_one_address(client: Client, dataset: Dataset, spelling: str, then: str) -> None:
    factories.make_dataset(doi="10.5555/Sample-X")

    for room in ("data", "launch"):
        answer = client.get(f"/{room}/{spelling}")
        assert (answer.status_code, answer.headers["Location"]) == (302, f"/{room}/{then}")
        assert client.get(answer.headers["Location"]).status_code == 200


@pytest.mark.parametrize(
    "doi", ["10.5555/a#b", "10.5555/a?b", "10.5555/a%b", "10.5555/50%25", "10.5555/a//b", "10.5555/(c)<d>"]
)
def test_a_doi_with_letters_that_end_an_address_keeps_its_own_page(client: Client, doi: str) -> None:
    factories.make_dataset(doi=doi, title="The very one")

    found = client.get("/search/", {"q": doi})
    page = client.get(found.headers["Location"], follow=True)

    assert "The very one" in page.content.decode()
    assert len(page.redirect_chain) == 0


def test_each_kind_of_no_has_its_own_page(client: Client, dataset: Dataset) -> None:
    closed = factories.make_dataset(open_to_all=False)
    elsewhere = factories.make_dataset(path="")
    instrument = factories.make_dataset(kind=Dataset.Kind.INSTRUMENT)
    expected = {
        f"/data/{closed.minted}": (200, "They open on"),
        f"/launch/{closed.minted}": (403, "They open on"),
        f"/data/{elsewhere.minted}": (200, "not held by this site"),
        f"/launch/{elsewhere.minted}": (409, "not held by this site"),
        f"/launch/{instrument.minted}": (409, "does not name data"),
        "/launch/10.5555/nobody-knows": (404, "Nothing is known here"),
        "/data/hello": (400, "A DOI begins with"),
        "/launch/10.5555/a%0Ab": (404, "no page at this address"),
        "/launch/10.5555/a%07b": (400, "characters in it that no DOI has"),
        "/nowhere/": (404, "no page at this address"),
        f"/data/10.5555/{'x' * 3000}": (400, "too long"),
    }
    for path, (status, words) in expected.items():
        answer = client.get(path)
        assert (path, answer.status_code) == (path, status)
        assert words in answer.content.decode(), path
        assert "Analyse these data" not in answer.content.decode()


def test_closed_data_look_unknown_to_strangers_in_every_byte(browse_as: Browse, stranger: User, owner: User) -> None:
    team = factories.make_experiment(team=[owner])
    hidden = factories.make_dataset(
        doi="10.5555/hidden-1", title="Secret foam", open_to_all=False, metadata_public=False, experiment=team
    )
    client, there, nowhere = browse_as(stranger), hidden.minted, "10.5555/hidden-2"

    def body(path: str) -> str:
        return unnumbered(client.get(path).content.decode()).replace(there, "DOI").replace(nowhere, "DOI")

    for room in ("data", "launch"):
        assert body(f"/{room}/{there}") == body(f"/{room}/{nowhere}")
    assert "Secret foam" not in body("/search/?q=foam")
    assert "Secret foam" in browse_as(owner).get(f"/data/{there}").content.decode()


def test_search_finds_open_data_by_words_and_says_when_it_finds_none(client: Client, dataset: Dataset) -> None:
    assert "Foam under a drop tower" in client.get("/search/?q=drop foam").content.decode()
    assert "Nothing found" in client.get("/search/?q=lysozyme").content.decode()
    assert client.get("/search/?q=%00%ff&page=nonsense").status_code == 200


# ----------------------------------------------------------------------------------------------------- the launch link


def test_reading_the_launch_link_changes_nothing(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    client = browse_as(owner)

    with nothing_changes():
        page = client.get(f"/launch/{dataset.minted}")
        client.head(f"/launch/{dataset.minted}")

    text = page.content.decode()
    assert page.status_code == 200
    assert "Start the machine" in text
    assert "0 of 8 in use" in text
    assert "1 after this start" in text


@pytest.mark.parametrize(
    "query",
    ["next=https://evil.example", "flavour=huge", "image=odd", "flavour=small&flavour=small", "size=8", "key=1"],
)
def test_a_launch_link_takes_a_size_and_software_of_ours_and_nothing_else(
    client: Client, dataset: Dataset, query: str
) -> None:
    assert client.get(f"/launch/{dataset.minted}?{query}").status_code == 400
    assert client.get(f"/launch/{dataset.minted}?flavour=small&image=desktop").status_code == 200


def test_the_proposal_is_the_sites_and_not_the_links(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    factories.make_flavour(slug="large", cores=4, position=1)

    text = browse_as(owner).get(f"/launch/{dataset.minted}").content.decode()

    assert re.search(r'value="small"\s+checked', text)
    assert not re.search(r'value="large"\s+checked', text)


def test_a_link_with_the_doi_as_a_parameter_leads_to_the_page(client: Client, dataset: Dataset) -> None:
    answer = client.get("/launch/", {"doi": f"https://doi.org/{dataset.minted}", "flavour": "small"})

    assert answer.headers["Location"] == f"/launch/{dataset.minted}?flavour=small"
    assert client.get("/launch/").status_code == 400


def test_somebody_signed_out_is_sent_to_sign_in_and_comes_back(client: Client, dataset: Dataset) -> None:
    page = client.get(f"/launch/{dataset.minted}").content.decode()
    posted = client.post(f"/launch/{dataset.minted}", {"key": "k"})

    back = f"/signin/?next=%2Flaunch%2F10.5555%2F{dataset.minted.partition('/')[2]}"
    assert back in page
    assert "Start the machine" not in page
    assert posted.headers["Location"] == back
    assert not Instance.objects.exists()


def test_the_button_launches_once_however_often_it_is_sent(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    client = browse_as(owner)
    page = client.get(f"/launch/{dataset.minted}").content.decode()
    key = re.search(r'name="key" value="(\w+)"', page)
    assert key is not None

    answers = [client.post(f"/launch/{dataset.minted}", {"key": key[1], "flavour": "small"}) for _ in range(3)]

    machine = Instance.objects.get()
    assert {answer.headers["Location"] for answer in answers} == {f"/machines/{machine.id}/"}
    again = client.get(f"/launch/{dataset.minted}").content.decode()
    assert "You have a machine with these data already" in again


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"flavour": "huge"}, "There is no size called"),
        ({"image": "odd"}, "There is no software called"),
        ({"flavour": "a b"}, "valid"),
        ({"key": "k" * 65}, "at most 64"),
        ({"owner": "someone"}, "takes no"),
        ({"experiment": str(uuid4())}, "takes no"),
    ],
)
def test_a_form_that_asks_for_what_there_is_not_is_told_so(
    browse_as: Browse, owner: User, dataset: Dataset, form: dict[str, str], words: str
) -> None:
    answer = browse_as(owner).post(f"/launch/{dataset.minted}", form)

    assert answer.status_code == 400
    assert words in answer.content.decode()
    assert not Instance.objects.exists()


def test_an_oversized_form_is_a_page_and_no_launch(browse_as: Browse, owner: User, dataset: Dataset) -> None:
    answer = browse_as(owner).post(f"/launch/{dataset.minted}", {"key": "k" * 300_000})

    assert answer.status_code in {400, 413}
    assert not Instance.objects.exists()


def test_another_site_cannot_press_the_button(owner: User, dataset: Dataset) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="visa.accounts.oidc.Backend")
    token = client.get(f"/launch/{dataset.minted}").cookies["visa-csrf"].value
    path, form = f"/launch/{dataset.minted}", {"key": "k", "csrfmiddlewaretoken": token}

    without = client.post(path, {"key": "k"})
    elsewhere = client.post(path, form, headers={"Sec-Fetch-Site": "cross-site"})
    origin = client.post(path, form, headers={"Origin": "https://evil.example"})

    assert [without.status_code, elsewhere.status_code, origin.status_code] == [403, 403, 403]
    assert not Instance.objects.exists()
    assert client.post(path, form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 302


def test_what_does_not_fit_is_refused_with_its_numbers_and_what_to_do(
    browse_as: Browse, owner: User, dataset: Dataset, machine: str
) -> None:
    Limit.objects.update(machines=1)
    other = factories.make_dataset()
    client = browse_as(owner)

    page = client.get(f"/launch/{other.minted}").content.decode()
    posted = client.post(f"/launch/{other.minted}", {"key": "k", "flavour": "small"})

    assert "No size fits into your allowance now" in page
    assert f"/machines/{machine}/" in page
    assert "1 machine too many" in page
    assert posted.status_code == 409
    assert "This asks for 1 machine; none of your 1 are left" in posted.content.decode()
    assert Instance.objects.count() == 1


def test_a_site_without_software_says_so_before_anybody_presses(
    browse_as: Browse, owner: User, dataset: Dataset
) -> None:
    Image.objects.update(enabled=False)

    page = browse_as(owner).get(f"/launch/{dataset.minted}").content.decode()

    assert "This site offers no software yet." in page
    assert "Start the machine" not in page
    assert "No size fits" not in page


# ----------------------------------------------------------------------------------------------------------- a machine


def test_a_starting_machine_shows_its_steps_and_the_same_after_a_reload(
    browse_as: Browse, owner: User, machine: str
) -> None:
    client = browse_as(owner)

    page = client.get(f"/machines/{machine}/").content.decode()
    fragment = client.get(f"/machines/{machine}/progress/").content.decode()

    for text in (page, fragment):
        assert "Your place is reserved" in text
        assert 'aria-current="step"' in text
        assert "Give up and delete it" in text
    assert "<html" not in fragment


def test_a_ready_machine_offers_its_desktop_and_a_failed_one_says_why(
    browse_as: Browse, owner: User, machine: str
) -> None:
    client = browse_as(owner)

    seen(machine, seen="ready", state="active")
    ready = client.get(f"/machines/{machine}/").content.decode()
    desktop = client.get(f"/machines/{machine}/desktop/")
    seen(machine, seen="failed", state="error", failed=True, reason_code="build_failed", reason="No room for it.")
    failed = client.get(f"/machines/{machine}/").content.decode()
    no_desktop = client.get(f"/machines/{machine}/desktop/")

    assert f"/machines/{machine}/desktop/" in ready
    assert desktop.status_code == 200
    assert reverse("instances-api:instance-tickets", args=[machine]) in desktop.content.decode()
    assert "No room for it." in failed
    assert no_desktop.headers["Location"] == f"/machines/{machine}/"


def test_verbs_act_by_post_and_a_get_only_shows(browse_as: Browse, owner: User, machine: str) -> None:
    client = browse_as(owner)

    with nothing_changes():
        for verb in ("start", "stop", "reboot"):
            assert client.get(f"/machines/{machine}/{verb}/").headers["Location"] == f"/machines/{machine}/"
        assert "Lost for good" in client.get(f"/machines/{machine}/delete/").content.decode()

    client.post(f"/machines/{machine}/stop/")
    assert Instance.objects.get().wanted == Wanted.STOPPED
    client.post(f"/machines/{machine}/start/")
    assert Instance.objects.get().wanted == Wanted.RUNNING
    assert client.post(f"/machines/{machine}/reboot/").status_code == 409
    seen(machine, seen="ready", state="active")
    assert client.post(f"/machines/{machine}/reboot/").status_code == 302
    assert Instance.objects.get().reboot_wanted_at is not None
    assert client.post(f"/machines/{machine}/delete/").headers["Location"] == "/"
    assert Instance.objects.get().wanted == Wanted.DELETED


PAGES = ("", "progress/", "desktop/", "delete/")
VERBS = ("start/", "stop/", "reboot/", "delete/")


def test_anothers_machine_looks_like_none(browse_as: Browse, stranger: User, machine: str) -> None:
    client, none = browse_as(stranger), str(uuid4())

    def answer(method: str, at: str, part: str) -> tuple[int, str]:
        found = getattr(client, method)(f"/machines/{at}/{part}")
        return found.status_code, unnumbered(found.content.decode()).replace(at, "ID")

    with nothing_changes():
        for part in PAGES:
            assert answer("get", machine, part) == answer("get", none, part)
        for part in VERBS:
            assert answer("post", machine, part)[0] == answer("post", none, part)[0] == 404


def test_support_sees_and_operates_and_neither_enters_nor_deletes(
    browse_as: Browse, support: User, machine: str
) -> None:
    seen(machine, seen="ready", state="active")
    client = browse_as(support)

    assert client.get(f"/machines/{machine}/").status_code == 200
    assert "Open the desktop" not in client.get(f"/machines/{machine}/").content.decode()
    with nothing_changes():
        assert client.get(f"/machines/{machine}/desktop/").status_code == 403
        assert client.post(f"/machines/{machine}/delete/").status_code == 403
    assert client.post(f"/machines/{machine}/stop/").status_code == 302


def test_a_fragment_of_what_is_gone_sends_its_page_on(browse_as: Browse, owner: User, machine: str) -> None:
    gone = browse_as(owner).get(f"/machines/{uuid4()}/progress/")
    signed_out = Client().get(f"/machines/{machine}/progress/", headers={"HX-Request": "true"})

    assert gone.headers["HX-Redirect"] == "/"
    assert (signed_out.status_code, signed_out.headers["HX-Refresh"]) == (401, "true")


def test_somebody_signed_out_comes_back_to_the_page_they_wanted(client: Client, machine: str) -> None:
    for path in (f"/machines/{machine}/", "/experiments/", f"/machines/{machine}/delete/"):
        assert client.get(path).headers["Location"] == f"/signin/?next={path}"


# --------------------------------------------------------------------------------------------------- around every page


@pytest.mark.parametrize("path", ["/", "/help/", "/search/", "/site.css", "/nowhere/", "/data/hello", "/launch/?x=1"])
def test_no_page_can_be_framed_or_run_a_script_of_others(client: Client, path: str) -> None:
    headers = client.get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_pages_of_a_person_are_kept_by_no_cache(browse_as: Browse, owner: User, machine: str) -> None:
    client = browse_as(owner)

    for path in ("/", f"/machines/{machine}/", "/experiments/"):
        assert "no-store" in client.get(path).headers["Cache-Control"]


def test_no_page_holds_a_style_a_script_or_an_address_of_others(
    browse_as: Browse, owner: User, machine: str, dataset: Dataset
) -> None:
    client = browse_as(owner)

    for path in ("/", "/help/", "/search/", f"/data/{dataset.minted}", f"/machines/{machine}/", "/experiments/"):
        text = client.get(path).content.decode()
        assert "<style" not in text
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text), path
        assert not re.search(r"<script(?![^>]*src=)", text), path
        assert not re.search(r'(src|srcset)="(https?:)?//', text), path
        assert re.search(r"<title>[^<]+ · VISA</title>", text), path


def test_a_method_nobody_expects_is_told_so(browse_as: Browse, owner: User, machine: str) -> None:
    client = browse_as(owner)

    for path in ("/", "/help/", f"/machines/{machine}/", "/search/"):
        assert client.put(path).status_code == 405
        assert client.post(path).status_code == 405
