"""Index of fixtures

op             an OpenID provider that says what it is told to (`op.py`), and the only one this site knows
arrive         arrive(client) -> the answer of the callback after a sign-in at `op`
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from tests.visa.accounts.op import OpenProvider
from visa.accounts import providers
from visa.environment import Roles


@pytest.fixture
def op(settings: Settings) -> Iterator[OpenProvider]:
    # A port comes again, and with it the issuer's name: what another test's provider published is nothing to this one.
    providers._provider.cache_clear()
    with OpenProvider() as provider:
        settings.ENVIRONMENT = replace(
            settings.ENVIRONMENT,
            providers=(provider.config(),),
            roles=Roles(
                administrator=(
                    "entitlement:urn:geant:example.org:group:staff:role=admin",
                    f"subject:{provider.issuer}#boss",
                ),
                support=(),
                instrument_scientist=("entitlement:urn:geant:example.org:group:beamline",),
            ),
        )
        yield provider


@pytest.fixture
def arrive(op: OpenProvider, db: None) -> Callable[..., HttpResponse]:
    def go(client: Client, then: str = "/help/", **more: str) -> Any:
        left = client.get("/signin/op/", {"next": then})
        query = parse_qs(urlsplit(left["location"]).query)
        op.nonce = query["nonce"][0]
        reply = {"code": "good", "state": query["state"][0], "iss": op.issuer} | more
        return client.get("/signin/op/callback/", reply)

    return go
