"""The REST API under schemathesis, in this process and with a real database, as each role.

`python -m tests.api_fuzz --cases 20000` runs at least so many requests and prints what came of them; the suite runs a
few of each kind. Every request is a real one through all middleware; machines are moved by real steps beforehand.
"""

import argparse
import collections
import logging
import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import django

    import tests.environment  # noqa: F401 - first of all, the run's own PostgreSQL and Redis

    django.setup()

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, connections
from django.test import Client
from django.test.utils import override_settings, setup_databases, setup_test_environment, teardown_databases
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.openapi.loaders import from_wsgi

# Its engine imports these in several threads at once, and pytest parses what is imported: Python before 3.11.5 mixes up
# the depths of two parsers (gh-106905). Here there is one thread.
from schemathesis.specs.openapi.adapter import v2, v3_0, v3_1, v3_2  # noqa: F401

from instances.cloud.protocol import Desktop
from instances.lifecycle import State
from quotas.models import Limit
from tests import factories, machines, people
from tests.environment import DIRECTORY
from tests.people import Figure
from tests.visa.accounts.op import CLIENT, Answer, OpenProvider
from tests.vnc import vnc_machine
from visa.accounts.models import Identity, User

#: what every answer is held to
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)

#: who asks, by name; None is somebody signed out. The program is the owner's, with a token instead of a session
ROLES: Mapping[str, Figure | None] = {
    "visitor": None,
    "owner": people.OWNER,
    "program": people.OWNER,
    "support": people.SUPPORT,
    "administrator": people.ADMINISTRATOR,
}


@dataclass
class Result:
    """What came of the requests of one role."""

    role: str
    cases: int = 0
    seconds: float = 0.0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        told = ", ".join(f"{number} × {status}" for status, number in sorted(self.statuses.items()))
        return f"{self.role:<14} {self.cases:>6} cases {self.seconds:6.0f} s  {len(self.failures)} failures   {told}"


@dataclass(frozen=True, kw_only=True)
class World:
    """What there is to ask about: ids of machines, those that may be deleted apart, and DOIs."""

    instances: tuple[str, ...]
    doomed: tuple[str, ...]
    dois: tuple[str, ...]


def make_world(desktop: Desktop) -> World:
    """Open and closed data, sizes, software, and machines of the owner in every state that is reached by steps."""
    factories.make_flavour()
    factories.make_flavour(slug="large", cores=10_000, position=1)
    factories.make_image()
    factories.make_limit(machines=10_000, cores=9_000, memory_mib=10**8)
    factories.make_limit(kind=Limit.Kind.ROLE, key="support", machines=0, cores=0, memory_mib=0, gpus=0)
    for figure in people.CAST:
        factories.make_figure(figure)
    owner = factories.find_figure(people.OWNER)
    experiment = factories.make_experiment(team=[owner])
    data = [
        factories.make_dataset(doi="10.5555/open-1"),
        factories.make_dataset(doi="10.5555/team-1", open_to_all=False, experiment=experiment),
        factories.make_dataset(doi="10.5555/hidden-1", open_to_all=False, metadata_public=False),
        factories.make_dataset(doi="10.5555/elsewhere-1", path=""),
    ]
    cloud = machines.memory_cloud(desktop)
    kept, doomed = [
        tuple(str(machines.machine_at(state, owner=owner, cloud=cloud)) for state in states)
        for states in (
            (State.BUILDING, State.ACTIVE, State.ACTIVE, State.ACTIVE, State.STOPPED),
            (State.ACTIVE, State.DELETING, State.DELETED),
        )
    ]
    return World(instances=kept + doomed[1:], doomed=doomed, dois=tuple(one.minted for one in data))


class _Asking:
    """The platform as somebody asks it: every request carries what they would send."""

    def __init__(self, carried: Mapping[str, str]) -> None:
        self._application = get_wsgi_application()
        self._carried = {"HTTP_HOST": settings.SITE.host, **carried}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self._application(environ | self._carried, start_response)
        try:
            return [b"".join(answer)]
        finally:
            answer.close()
            # Requests come in threads that end without telling anybody; so does what they opened.
            connection.close()


def _session_of(person: User) -> dict[str, str]:
    """A session and its form token, as a page of ours sends them."""
    client = Client()
    client.force_login(person, backend="visa.accounts.oidc.Backend")
    session, token = client.cookies[settings.SESSION_COOKIE_NAME].value, secrets.token_hex(16)
    cookies = {settings.SESSION_COOKIE_NAME: session, settings.CSRF_COOKIE_NAME: token}
    return {
        "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        "HTTP_X_CSRFTOKEN": token,
    }


def _token_of(person: User, provider: OpenProvider) -> dict[str, str]:
    """An access token that the provider knows, and it alone."""
    Identity.objects.get_or_create(user=person, issuer=provider.issuer, subject=provider.subject)
    token = secrets.token_urlsafe(16)

    def introspect(form: dict[str, str]) -> Answer:
        known = {"active": True, "sub": provider.subject, "client_id": CLIENT, "exp": time.time() + 3600}
        return Answer(known if form.get("token") == token else {"active": False})

    provider.answers["/introspect"] = introspect
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


@contextmanager
def _asking(role: str) -> Iterator[_Asking]:
    """The platform as `role` asks it, with a provider that answers when a token is to be checked."""
    figure = ROLES[role]
    person = None if figure is None else factories.find_figure(figure)
    with OpenProvider() as provider:
        provider.answers["/introspect"] = Answer({"active": False})
        carried: dict[str, str] = {}
        if person is not None:
            carried = _token_of(person, provider) if role == "program" else _session_of(person)
        with override_settings(ENVIRONMENT=replace(settings.ENVIRONMENT, providers=(provider.config(),))):
            yield _Asking(carried)


def fuzz(role: str, world: World, *, examples: int, seed: int | None = None) -> Result:
    """Asks everything the description names, as `role`: `examples` random cases an operation, and every edge of it.

    Without a `seed` the cases are the same each time.
    """
    config = SchemathesisConfig.from_dict(
        {
            "continue-on-failure": True,
            "generation": {
                "max-examples": examples,
                "database": "none",
                "deterministic": True,
                # who signed in asks by session; a visitor also with tokens of their own making
                "with-security-parameters": ROLES[role] is None,
            },
            "phases": {"examples": {"enabled": False}, "stateful": {"enabled": False}},
            **({} if seed is None else {"seed": seed}),
            "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
        }
    )
    result, began = Result(role=role), time.monotonic()
    with _asking(role) as application, _quiet():
        schema = from_wsgi("/api/v1/schema/", application, config=config)
        _hint(schema, world)
        for event in from_schema(schema).execute():
            _note(event, result)
    result.seconds = time.monotonic() - began
    return result


def _hint(schema: Any, world: World) -> None:
    """Mixes what really is there into what is asked, so that not every answer is “no such thing”."""
    known = {"doi": st.sampled_from(world.dois)}
    kept, doomed = st.sampled_from(world.instances), st.sampled_from(world.doomed)

    def before_generate_path_parameters(context: Any, strategy: Any) -> Any:
        ours = known | {"instance_id": doomed if context.operation.method == "delete" else kept}
        names = {one.name for one in context.operation.path_parameters} & ours.keys()
        there = st.fixed_dictionaries({name: ours[name] for name in sorted(names)})
        return st.tuples(strategy, there | st.just({})).map(_merged)

    def before_generate_body(context: Any, strategy: Any) -> Any:
        return st.tuples(strategy, st.fixed_dictionaries({"doi": known["doi"]}) | st.just({})).map(_merged)

    schema.hook(before_generate_path_parameters)
    schema.hook(before_generate_body)


def _merged(pair: tuple[Any, dict[str, str]]) -> Any:
    generated, there = pair
    return {**generated, **there} if isinstance(generated, dict) else generated


def _note(event: events.EngineEvent, result: Result) -> None:
    if isinstance(event, events.NonFatalError | events.FatalError):
        result.failures[f"engine: {getattr(event, 'label', '')}"] = str(getattr(event, "value", event))
    if not isinstance(event, events.ScenarioFinished):
        return
    recorder = event.recorder
    for one in recorder.interactions.values():
        result.cases += 1
        result.statuses[one.response.status_code if one.response else 0] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is None:
                continue
            seen = recorder.interactions[case_id]
            told = seen.response.text[:300] if seen.response else ""
            words = f"{seen.request.method} {seen.request.uri}\n{check.failure_info.failure}\n{told}"
            result.failures.setdefault(f"{recorder.label}: {check.name}", words)


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of the generator about itself are not of our making."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.api_fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="at least so many requests in all")
    parser.add_argument("--seed", type=int, default=None, help="a number told by an earlier run, to repeat it")
    asked = parser.parse_args()
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    logging.disable(logging.ERROR)
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False)
    failures = total = 0
    print(f"seed {seed}")  # noqa: T201 - a command's answer
    try:
        with vnc_machine(DIRECTORY / "fuzz-desktop") as desktop:
            world = make_world(Desktop(host=desktop.host, port=desktop.port))
            share = max(1, asked.cases // len(ROLES))
            for role in ROLES:
                # About sixteen operations, and each example is asked well and badly formed.
                done, examples = 0, max(5, share // 20)
                while done < share:
                    result = fuzz(role, world, examples=examples, seed=seed + done)
                    done += result.cases
                    failures += len(result.failures)
                    print(result.line(), flush=True)  # noqa: T201 - a command's answer
                    for name, words in result.failures.items():
                        print(f"\n{name}\n{words}\n", flush=True)  # noqa: T201 - a command's answer
                total += done
    finally:
        connections.close_all()
        teardown_databases(databases, verbosity=0)
    print(f"{total} cases, {failures} failures")  # noqa: T201 - a command's answer
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
