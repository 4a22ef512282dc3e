"""The door to data: who sees what, who may work with what, and that the hidden is nowhere to be felt."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import time_machine
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import access
from experiments.access import (
    DatasetClosed,
    DatasetElsewhere,
    NotADoi,
    NotData,
    Outcome,
    UnknownDoi,
    dataset_for,
    datasets_by_id,
    datasets_of,
    experiment_for,
    experiments_visible_to,
    launchable,
    search_open,
    still_launchable,
)
from experiments.models import Dataset, Experiment, InstrumentScientist, Participant, Technique
from experiments.openness import Reason
from tests import factories
from visa.accounts.models import User
from visa.errors import NotFound, Refusal

OPEN, CLOSED, HIDDEN = "10.5555/Open.1", "10.5555/Closed.1", "10.5555/Hidden.1"
INSTRUMENT, ELSEWHERE, WITHDRAWN = "10.5555/Instrument.1", "10.5555/Elsewhere.1", "10.5555/Withdrawn.1"
UNKNOWN = "10.5555/Unknown.1"


@pytest.fixture
def experiment(owner: User, member: User) -> Experiment:
    return factories.make_experiment(team=[owner, member])


@pytest.fixture
def records(experiment: Experiment, scientist: User) -> Experiment:
    """One dataset of every kind; the closed ones belong to the experiment of owner and member."""
    factories.make_dataset(doi=OPEN, title="Open diffraction")
    factories.make_dataset(doi=CLOSED, title="Closed with a description", open_to_all=False, experiment=experiment)
    factories.make_dataset(doi=HIDDEN, open_to_all=False, experiment=experiment, metadata_public=False)
    factories.make_dataset(doi=INSTRUMENT, kind=Dataset.Kind.INSTRUMENT, path="")
    factories.make_dataset(doi=ELSEWHERE, path="")
    withdrawn = factories.make_dataset(doi=WITHDRAWN, experiment=experiment)
    withdrawn.withdrawn = ["2021-01-01"]
    withdrawn.save()
    identity = scientist.identities.get()
    InstrumentScientist.objects.create(
        instrument=experiment.instrument, issuer=identity.issuer, subject=identity.subject
    )
    return experiment


#: doi × who -> the page's outcome, or None where the DOI looks unknown; * where the machine may be launched
MATRIX = """
              nobody     stranger    administrator owner       member      scientist
Open.1        open       open*       open*         open*       open*       open*
Closed.1      closed     closed      closed        team*       team*       team*
Hidden.1      -          -           -             team*       team*       team*
Instrument.1  not_data   not_data    not_data      not_data    not_data    not_data
Elsewhere.1   elsewhere  elsewhere   elsewhere     elsewhere   elsewhere   elsewhere
Withdrawn.1   closed     closed      closed        closed      closed      closed
Unknown.1     -          -           -             -           -           -
"""
_HEAD, *_LINES = MATRIX.strip().splitlines()
CELLS = [
    (line.split()[0], who, cell) for line in _LINES for who, cell in zip(_HEAD.split(), line.split()[1:], strict=True)
]


@pytest.mark.parametrize(("suffix", "who", "cell"), CELLS)
def test_who_sees_and_launches_what(
    records: Experiment, request: pytest.FixtureRequest, suffix: str, who: str, cell: str
) -> None:
    person = None if who == "nobody" else request.getfixturevalue(who)
    text = f"10.5555/{suffix}"

    if cell == "-":
        with pytest.raises(UnknownDoi):
            dataset_for(person, text)
    else:
        page = dataset_for(person, text)
        assert page.outcome is Outcome(cell.rstrip("*"))
        assert page.may_launch == cell.endswith("*")
        assert bool(page.experiment) == (
            who in {"owner", "member", "scientist"} and suffix in {"Closed.1", "Hidden.1", "Withdrawn.1"}
        )

    if person is None:
        return
    if cell.endswith("*"):
        found = launchable(person, text)
        assert found.minted == text
        assert still_launchable(person, found.id) == found
        (mount,) = found.mounts
        assert "ro" in mount.options
        assert mount.target == f"/data/10.5555-{suffix.lower()}"
    else:
        with pytest.raises(Refusal) as refused:
            launchable(person, text)
        expected = {"closed": DatasetClosed, "elsewhere": DatasetElsewhere, "not_data": NotData, "-": UnknownDoi}
        assert type(refused.value) is expected[cell]


def test_somebody_signed_out_is_told_that_signing_in_is_what_is_missing(records: Experiment) -> None:
    page = dataset_for(AnonymousUser(), OPEN)

    assert (page.may_launch, page.sign_in) == (False, True)
    assert page.way_out == "Sign in to work with them."
    assert not dataset_for(None, CLOSED).sign_in


def test_somebody_who_is_no_longer_active_is_nobody(records: Experiment, owner: User) -> None:
    owner.is_active = False
    owner.save()

    with pytest.raises(UnknownDoi):
        dataset_for(owner, HIDDEN)
    with pytest.raises(DatasetClosed):
        launchable(owner, OPEN)


def test_the_closed_page_says_when_it_opens_and_whom_to_ask(records: Experiment, stranger: User) -> None:
    page = dataset_for(stranger, CLOSED)

    assert page.verdict.reason is Reason.EMBARGO
    assert page.why == "These data are under embargo. They open on Jan. 1, 2099."
    assert page.way_out == "Ask data@facility.example about them."
    assert str(page.opens_on) == "2099-01-01"


def test_a_list_names_the_same_day_as_the_page(records: Experiment, owner: User) -> None:
    rows = {row.dataset.minted: row for row in datasets_of(owner).items}

    assert rows[CLOSED].opens_on == dataset_for(owner, CLOSED).opens_on
    assert rows[WITHDRAWN].opens_on is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no DOI"),
        ("x", "begins with"),
        ("10.5555/", "after the slash"),
        ("10.5555/a b", "space"),
        ("x" * 3000, "too long"),
    ],
)
def test_a_malformed_doi_is_refused_with_its_reason_and_an_example(db: None, text: str, words: str) -> None:
    with pytest.raises(NotADoi) as refused:
        dataset_for(None, text)

    assert words in refused.value.message
    assert "10.5291/ILL-DATA.8-02-912" in refused.value.way_out
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "text",
    ["10.5555/OPEN.1", "https://doi.org/10.5555/open.1", "doi:10.5555/Open.1", "10.5555/Open.1).", "10.5555/Open.1/"],
)
def test_any_spelling_finds_the_dataset_as_minted(records: Experiment, text: str) -> None:
    assert dataset_for(None, text).dataset.minted == OPEN


def test_a_doi_that_ends_in_punctuation_is_found_before_the_shorter_one(records: Experiment) -> None:
    factories.make_dataset(doi=f"{OPEN}.", title="With a dot")

    assert dataset_for(None, f"{OPEN}.").dataset.title == "With a dot"
    assert dataset_for(None, f"{OPEN},").dataset.title == "Open diffraction"


def test_a_hidden_exact_match_neither_shadows_nor_shows_itself(
    records: Experiment, stranger: User, owner: User
) -> None:
    hidden = factories.make_dataset(doi=f"{OPEN}.", open_to_all=False, metadata_public=False, experiment=records)

    assert dataset_for(stranger, f"{OPEN}.").dataset.minted == OPEN
    assert dataset_for(owner, f"{OPEN}.").dataset.minted == hidden.minted


def test_a_team_is_recognised_by_issuer_and_subject_together(records: Experiment, owner: User) -> None:
    same_subject = factories.make_user(subject="owner", issuer="http://127.0.0.1:10")

    with pytest.raises(UnknownDoi):
        dataset_for(same_subject, HIDDEN)


def test_a_voperson_id_counts_only_from_the_issuer_the_record_names(records: Experiment, stranger: User) -> None:
    identity = stranger.identities.get()
    identity.voperson_id = "somebody@community.example"
    identity.save()
    named = Participant.objects.create(
        experiment=records, issuer="https://community.example", voperson_id="somebody@community.example"
    )
    with pytest.raises(UnknownDoi):
        dataset_for(stranger, HIDDEN)

    named.issuer = identity.issuer
    named.save()

    assert dataset_for(stranger, HIDDEN).outcome is Outcome.TEAM


def test_an_empty_voperson_id_matches_nobody(records: Experiment, stranger: User) -> None:
    issuer = stranger.identities.get().issuer
    Participant.objects.create(experiment=records, issuer=issuer, subject="somebody-else", voperson_id="")

    with pytest.raises(UnknownDoi):
        dataset_for(stranger, HIDDEN)


def test_a_withdrawn_experiment_is_nobodys(records: Experiment, owner: User) -> None:
    Experiment.objects.update(withdrawn_at=datetime(2026, 1, 1, tzinfo=UTC))

    assert experiments_visible_to(owner).total == 0
    with pytest.raises(UnknownDoi):
        dataset_for(owner, HIDDEN)


def test_an_embargo_ends_by_itself_and_a_launch_is_judged_when_it_is_pressed(
    records: Experiment, stranger: User
) -> None:
    midnight_in_paris = datetime(2098, 12, 31, 23, tzinfo=UTC)

    with time_machine.travel(midnight_in_paris - timedelta(seconds=1), tick=False):
        with pytest.raises(DatasetClosed):
            launchable(stranger, CLOSED)
        with pytest.raises(UnknownDoi):
            launchable(stranger, HIDDEN)
    with time_machine.travel(midnight_in_paris, tick=False):
        assert launchable(stranger, CLOSED).minted == CLOSED
        assert launchable(stranger, HIDDEN).minted == HIDDEN


def test_a_launch_does_not_trust_the_stored_window(records: Experiment, stranger: User) -> None:
    Dataset.objects.filter(minted=CLOSED).update(opens_at=datetime(2020, 1, 1, tzinfo=UTC))

    with pytest.raises(DatasetClosed):
        launchable(stranger, CLOSED)


def test_trust_and_zones_judge_their_datasets_anew(records: Experiment, stranger: User) -> None:
    dataset = Dataset.objects.get(minted=HIDDEN)
    dataset.available, dataset.flags = [], {"isPublic": True}
    dataset.save()
    with pytest.raises(UnknownDoi):
        dataset_for(stranger, HIDDEN)

    dataset.source.trusts_flags = True
    dataset.source.save()
    assert dataset_for(stranger, HIDDEN).verdict.reason is Reason.FLAG

    closed = Dataset.objects.get(minted=CLOSED)
    closed.facility.timezone = "America/New_York"
    closed.facility.save()
    closed.refresh_from_db()
    assert closed.opens_at == datetime(2099, 1, 1, 5, tzinfo=UTC)


def test_search_finds_open_data_by_every_word(records: Experiment, owner: User) -> None:
    dataset = Dataset.objects.get(minted=OPEN)
    for number, name in enumerate(["small angle scattering", "wide angle scattering"]):
        dataset.techniques.add(Technique.objects.create(pid=f"http://purl.org/pan-science/PaNET/{number}", name=name))

    def found(text: str) -> list[str]:
        page = search_open(text)
        assert page.total == len(page.items)
        return sorted(row.dataset.minted for row in page.items)

    assert found("") == [ELSEWHERE, OPEN]
    assert found("diffraction OPEN") == found("scattering") == found("https://doi.org/10.5555/OPEN.1") == [OPEN]
    assert found("10.5555/open") == [OPEN]
    assert found("test facility") == [ELSEWHERE, OPEN]
    assert found("Closed") == found("description") == found("Hidden.1") == found(CLOSED) == []
    assert found("100%") == found("_") == found("\\") == []
    assert found("\x00diffraction\x00") == [OPEN]
    assert found("x" * 100_000) == []
    assert [row.dataset.minted for row in search_open("", offset=1, limit=1).items] == [OPEN]


def test_ones_own_experiments_and_datasets_are_listed_and_no_others(
    records: Experiment, owner: User, scientist: User, stranger: User, administrator: User
) -> None:
    other = factories.make_experiment(team=[stranger], title="Another team's")
    factories.make_dataset(doi="10.5555/Other", open_to_all=False, metadata_public=False, experiment=other)

    (row,) = experiments_visible_to(owner).items
    assert (row.role, row.team, row.title) == ("leader", 2, "A measurement")
    assert [one.dataset.minted for one in row.datasets] == [CLOSED, HIDDEN, WITHDRAWN]
    assert {one.dataset.minted for one in datasets_of(owner).items} == {CLOSED, HIDDEN, WITHDRAWN}
    assert experiment_for(owner, row.public_id) == row
    # the other experiment ran on the same instrument
    assert {one.title for one in experiments_visible_to(scientist).items} == {"A measurement", "Another team's"}
    assert experiments_visible_to(scientist).items[0].role == "instrument scientist"
    for nobody in (None, AnonymousUser(), administrator):
        assert experiments_visible_to(nobody).total == datasets_of(nobody).total == 0
    for public_id in (row.public_id, uuid.uuid4()):
        with pytest.raises(NotFound) as refused:
            experiment_for(stranger, public_id)
        assert refused.value.message == "There is no such experiment among yours."


def test_descriptions_by_id_leave_out_what_the_person_may_not_know(
    records: Experiment, owner: User, stranger: User
) -> None:
    ids = list(Dataset.objects.values_list("pk", flat=True))

    assert {row.dataset.minted for row in datasets_by_id(owner, ids).values()} >= {HIDDEN, CLOSED}
    assert HIDDEN not in {row.dataset.minted for row in datasets_by_id(stranger, ids).values()}


def _everything_told(person: User | None, client: Client) -> bytes:
    """Every answer the door and the API give, to a fixed list of questions."""
    told: list[object] = []
    questions = [
        OPEN,
        CLOSED,
        HIDDEN,
        HIDDEN.upper(),
        f"{HIDDEN}.",
        "10.5555/Secret.9",
        UNKNOWN,
        "Secret",
        "measurement",
        "",
    ]
    for text in questions:
        try:
            told.append(dataset_for(person, text))
        except Refusal as refusal:
            told.append((type(refusal), refusal.message, refusal.way_out, refusal.detail))
        told += [search_open(text), datasets_of(person, text), experiments_visible_to(person)]
        for address in (f"/api/v1/datasets/{text}/", f"/api/v1/datasets/?q={text}", "/api/v1/experiments/"):
            answer = client.get(address)
            # Each request's own number says nothing of what was asked.
            headers = {name: value for name, value in answer.headers.items() if name != "X-Request-ID"}
            told.append((answer.status_code, answer.content, sorted(headers.items())))
    return repr(told).encode()


def test_a_hidden_object_changes_no_answer_to_anybody_else(
    records: Experiment, stranger: User, administrator: User, owner: User, browse_as: Callable[[User], Client]
) -> None:
    watchers = [(None, Client()), (stranger, browse_as(stranger)), (administrator, browse_as(administrator))]
    before = [_everything_told(person, client) for person, client in watchers]

    secret = factories.make_experiment(title="Secret measurement", team=[owner])
    factories.make_dataset(
        doi="10.5555/Secret.9", title="Secret", open_to_all=False, metadata_public=False, experiment=secret
    )

    after = [_everything_told(person, client) for person, client in watchers]
    assert before == after
    assert b"Secret measurement" in _everything_told(owner, browse_as(owner))


@pytest.mark.parametrize(
    "ask",
    [
        lambda person: search_open(""),
        lambda person: datasets_of(person),
        lambda person: experiments_visible_to(person),
        lambda person: datasets_by_id(person, Dataset.objects.values_list("pk", flat=True)),
        lambda person: dataset_for(person, OPEN),
        lambda person: launchable(person, CLOSED),
    ],
    ids=["search_open", "datasets_of", "experiments_visible_to", "datasets_by_id", "dataset_for", "launchable"],
)
def test_the_number_of_queries_does_not_grow_with_the_data(
    records: Experiment, owner: User, ask: Callable[[User], object]
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            ask(owner)
        return len(queries)

    few = cost()
    technique = Technique.objects.create(pid="http://purl.org/pan-science/PaNET/PaNET01213", name="X")
    for _number in range(12):
        experiment = factories.make_experiment(team=[owner])
        for is_open in (True, False):
            factories.make_dataset(open_to_all=is_open, experiment=experiment).techniques.add(technique)

    assert cost() == few <= 7


def test_the_api_tells_of_data_what_the_door_does(
    records: Experiment, owner: User, browse_as: Callable[[User], Client]
) -> None:
    nobody, team = Client(), browse_as(owner)

    answer = nobody.get("/api/v1/datasets/10.5555/OPEN.1/")
    assert answer.status_code == 200
    assert answer.json()["dataset"]["doi"] == OPEN
    assert (answer.json()["open"], answer.json()["may_launch"], answer.json()["sign_in"]) == (True, False, True)
    assert "path" not in json.dumps(answer.json())

    assert nobody.get(f"/api/v1/datasets/{HIDDEN}/").status_code == 404
    assert team.get(f"/api/v1/datasets/{HIDDEN}/").json()["outcome"] == "team"
    malformed = nobody.get("/api/v1/datasets/nonsense/")
    assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed_doi")
    assert nobody.get("/api/v1/datasets/?q=diffraction").json()["count"] == 1
    assert nobody.get("/api/v1/datasets/?limit=0").status_code == 400
    assert nobody.get("/api/v1/datasets/?limit=x&offset=-1").status_code == 400
    assert nobody.get("/api/v1/datasets/?q=%00").status_code == 400
    assert nobody.get("/api/v1/experiments/").status_code in {401, 403}
    assert team.get("/api/v1/experiments/").json()["count"] == 1
    assert team.post("/api/v1/experiments/").status_code == 405


def test_access_names_no_path_of_the_storage(records: Experiment, owner: User) -> None:
    stored = Dataset.objects.get(minted=OPEN).path

    assert stored
    assert stored not in repr(dataset_for(owner, OPEN))
    assert stored not in repr(search_open(""))
    assert access.launchable(owner, OPEN).mounts[0].source.endswith(stored)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.text(max_size=40), st.text(max_size=8))
def test_no_address_makes_the_api_stumble(records: Experiment, doi: str, words: str, number: str) -> None:
    client = Client(raise_request_exception=False)
    asked = {"q": words.encode(errors="replace").decode(), "limit": number.encode(errors="replace").decode()}

    for answer in (
        client.get(f"/api/v1/datasets/{quote(doi, safe='/', errors='replace')}/"),
        client.get(f"/api/v1/datasets/10.5555/{quote(doi, safe='/', errors='replace')}/"),
        client.get("/api/v1/datasets/", asked),
        client.get("/api/v1/experiments/", asked),
    ):
        assert answer.status_code in {200, 301, 400, 401, 403, 404}
        if answer.status_code != 301:
            assert answer.headers["Content-Type"] == "application/json"
