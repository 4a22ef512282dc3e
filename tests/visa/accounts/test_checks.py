"""What stops the start: a sign-in that could not work, or a mapping that would give rights nobody meant."""

from dataclasses import replace
from typing import Any

import pytest
from pytest_django import Settings

from visa.accounts.checks import check_sign_in
from visa.environment import Provider, Roles

GOOD = Provider(
    slug="op",
    label="The provider",
    preset="egi",
    issuer="https://op.example.org",
    client_id="visa",
    client_secret="a secret",
    scopes="",
    api_clients=(),
    namespaces=(),
)


def ids(settings: Settings, *known: Provider, administrator: tuple[str, ...] = ()) -> list[str | None]:
    roles = Roles(administrator=administrator, support=(), instrument_scientist=())
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=known, roles=roles)
    return [message.id for message in check_sign_in(None)]


def test_a_good_sign_in_passes(settings: Settings) -> None:
    assert ids(settings, GOOD, administrator=("subject:https://op.example.org#a1",)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"preset": "unknown"}, "accounts.E001"),
        ({"issuer": "http://op.example.org"}, "accounts.E002"),
        ({"issuer": "op.example.org"}, "accounts.E002"),
        ({"issuer": "http://127.0.0.1:8091"}, None),
        ({"scopes": "profile email"}, "accounts.E004"),
        ({"scopes": "openid custom"}, None),
    ],
)
def test_a_provider_that_could_not_work_is_named(
    change: dict[str, Any], expected: str | None, settings: Settings
) -> None:
    assert ids(settings, replace(GOOD, **change)) == ([expected] if expected else [])


def test_one_issuer_under_two_names_is_a_fault(settings: Settings) -> None:
    assert ids(settings, GOOD, replace(GOOD, slug="again")) == ["accounts.E003"]


@pytest.mark.parametrize(
    "entry", ["boss@example.org", "email:boss@example.org", "entitlement:urn:a:b", "subject:a1", "*"]
)
def test_a_mapping_that_cannot_be_understood_stops_the_start(entry: str, settings: Settings) -> None:
    assert ids(settings, GOOD, administrator=(entry,)) == ["accounts.E005"]
