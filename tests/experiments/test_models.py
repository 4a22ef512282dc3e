"""What the database itself refuses, and what administrators' forms do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.forms import model_to_dict
from django.test import Client

from experiments.admin import DatasetForm, FacilityForm
from experiments.models import Dataset, Experiment, InstrumentScientist, Participant
from tests import factories
from visa.accounts.models import User


def test_the_window_is_written_at_each_save(db: None) -> None:
    dataset = factories.make_dataset(open_to_all=False)
    assert dataset.opens_at == datetime(2098, 12, 31, 23, tzinfo=UTC)

    dataset.available, dataset.withdrawn = ["2021-01-01"], ["2030"]
    dataset.save()

    dataset.refresh_from_db()
    assert dataset.opens_at == datetime(2020, 12, 31, 23, tzinfo=UTC)
    assert dataset.closes_at == datetime(2029, 12, 31, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    "broken",
    [
        {"key": "10.5555/Upper"},
        {"key": "10.5555/other"},
        {"key": "nonsense", "minted": "nonsense"},
        {"path": "/etc"},
        {"path": "a/../b"},
        {"path": ".."},
        {"path": "a\nb"},
        {"ruling": "open"},
        {"ruling": "perhaps", "ruling_reason": "x"},
        {"ruling_reason": "without a ruling"},
    ],
    ids=str,
)
def test_the_database_refuses_what_no_form_or_import_lets_pass(db: None, broken: dict[str, str]) -> None:
    dataset = factories.make_dataset(doi="10.5555/Plain")

    with pytest.raises(IntegrityError), transaction.atomic():
        Dataset.objects.filter(pk=dataset.pk).update(**broken)


def test_the_key_is_folded_in_ascii_only(db: None) -> None:
    assert factories.make_dataset(doi="10.5555/ÄB").key == "10.5555/Äb"


@pytest.mark.parametrize("unnamed", [{"issuer": "x"}, {"subject": "x"}, {"voperson_id": "x"}], ids=str)
def test_a_person_is_named_with_an_issuer(db: None, unnamed: dict[str, str]) -> None:
    experiment = factories.make_experiment()

    with pytest.raises(IntegrityError), transaction.atomic():
        Participant.objects.create(experiment=experiment, **unnamed)
    with pytest.raises(IntegrityError), transaction.atomic():
        InstrumentScientist.objects.create(instrument=experiment.instrument, **unnamed)


def test_an_experiment_does_not_end_before_it_starts(db: None) -> None:
    experiment = factories.make_experiment()

    with pytest.raises(IntegrityError), transaction.atomic():
        Experiment.objects.filter(pk=experiment.pk).update(start="2026-03-02", end="2026-03-01")


def form_of(dataset: Dataset, **changes: Any) -> DatasetForm:
    given = model_to_dict(dataset) | {
        "creators": "A. Researcher",
        "available": ",".join(dataset.available),
        "withdrawn": "",
        "rights": "",
        "flags": "{}",
        "techniques": [],
        "harvested_at": "2026-01-01 00:00:00",
    }
    return DatasetForm(given | changes, instance=dataset)


def test_the_form_keeps_a_good_record(db: None) -> None:
    dataset = factories.make_dataset(doi="10.5555/Plain")

    form = form_of(dataset, minted="https://doi.org/10.5555/Renamed", path="a/b/")

    assert not form.errors
    saved = form.save()
    assert (saved.minted, saved.key, saved.path) == ("10.5555/Renamed", "10.5555/renamed", "a/b")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"minted": "nonsense"}, "minted"),
        ({"path": "../x"}, "path"),
        ({"ruling": "open", "ruling_reason": ""}, "ruling_reason"),
        ({"ruling": "maybe"}, "ruling"),
        ({"landing_url": "javascript:alert(1)"}, "landing_url"),
        ({"flags": "{"}, "flags"),
    ],
    ids=str,
)
def test_the_form_says_what_is_wrong(db: None, changes: dict[str, str], field: str) -> None:
    assert field in form_of(factories.make_dataset(), **changes).errors


def test_a_facilitys_zone_has_to_exist(db: None) -> None:
    given = {"slug": "x", "name": "X", "contact": ""}

    assert FacilityForm({**given, "timezone": "Europe/Paris"}).is_valid()
    assert "timezone" in FacilityForm({**given, "timezone": "Europe/Atlantis"}).errors


def test_a_ruling_is_stamped_with_who_made_it(administrator: User, browse_as: Callable[[User], Client]) -> None:
    dataset = factories.make_dataset(open_to_all=False)
    address = f"/admin/experiments/dataset/{dataset.pk}/change/"
    client = browse_as(administrator)
    form = form_of(dataset, ruling="open", ruling_reason="asked by the team").data
    given = {name: value for name, value in form.items() if value is not None} | {
        "harvested_at_0": "2026-01-01",
        "harvested_at_1": "00:00:00",
    }

    answer = client.post(address, given)

    assert answer.status_code == 302, answer.content[:4000]
    dataset.refresh_from_db()
    assert (dataset.ruling, dataset.ruling_by) == ("open", administrator)
    assert dataset.ruling_at is not None
    assert dataset.opens_at == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "noun",
    ["dataset", "experiment", "participant", "instrumentscientist", "instrument", "facility", "source", "technique"],
)
def test_each_list_and_form_opens_for_an_administrator_and_for_nobody_else(
    administrator: User, stranger: User, browse_as: Callable[[User], Client], noun: str
) -> None:
    factories.make_dataset(experiment=factories.make_experiment(team=[stranger]))

    for address in (
        f"/admin/experiments/{noun}/",
        f"/admin/experiments/{noun}/add/",
        f"/admin/experiments/{noun}/?q=x",
    ):
        if noun == "source" and "q=" in address:
            continue
        assert browse_as(administrator).get(address).status_code == 200, address
        assert browse_as(stranger).get(address).status_code in {302, 403, 404}, address
