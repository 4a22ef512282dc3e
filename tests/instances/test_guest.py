"""The door for machines: a pass opens it once, for one machine; what a machine says is heard, bounded and shown."""

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from instances import access, actions, credentials, guest_reports, notices
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Desktop
from instances.lifecycle import State
from instances.models import ConsoleExcerpt, GuestPass, GuestReport, Image, Instance
from instances.reports import TEXT, Report, Step
from quotas.models import Flavour, Limit
from tests import factories, machines
from visa.accounts.models import User
from visa.audit.models import AuditEvent
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db

CLAIM = "a-random-word-that-a-machine-made-for-itself"
OTHER = "another-word-that-somebody-else-made-for-it"


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image, limit: Limit, cloud: MemoryCloud) -> Instance:
    return Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud))


@pytest.fixture
def token(machine: Instance) -> str:
    return issued(machine)


def issued(machine: Instance) -> str:
    """A new pass of a machine."""
    token = guest_reports.draw(machine.id, attempt=machine.attempt)
    guest_reports.issue(machine.id, token)
    return token


def post(
    path: str, machine: UUID, token: str, body: Mapping[str, Any] | bytes | None = None, **headers: str
) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    return Client().post(  # type: ignore[return-value]
        f"/api/v1/guest/{machine}/{path}/", data, content_type="application/json", headers={**authorization, **headers}
    )


def fetch(machine: Instance, token: str, claim: str = CLAIM) -> HttpResponse:
    return post("secrets", machine.id, token, {"claim": claim})


def say(machine: Instance, token: str, **report: object) -> HttpResponse:
    return post("reports", machine.id, token, report)


def reporter_of(machine: Instance, token: str) -> str:
    answer = fetch(machine, token)
    assert answer.status_code == 200, answer.content
    told: str = json.loads(answer.content)["report_token"]
    return told


def said_of(machine: Instance) -> set[tuple[str, str, bool, str]]:
    return {(one.step, one.subject, one.ok, one.text) for one in GuestReport.objects.filter(instance=machine)}


def test_a_pass_opens_the_door_once_and_for_nobody_after(machine: Instance, token: str, settings: Any) -> None:
    answer = fetch(machine, token)
    second = fetch(machine, token, OTHER)

    kept = credentials.unseal(machine.desktop_secret, settings.ENVIRONMENT.machine_keys)
    assert answer.status_code == 200
    told = json.loads(answer.content)
    assert (told["vnc_password"], told["vnc_key"], told["vnc_certificate"]) == (
        kept.password,
        kept.key,
        kept.certificate,
    )
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert (second.status_code, json.loads(second.content)["code"]) == (403, "pass_used")


def test_a_second_use_is_in_the_audit_trail_and_told_to_administrators_once(machine: Instance, token: str) -> None:
    fetch(machine, token)
    for _ in range(3):
        fetch(machine, token, OTHER)

    told = AuditEvent.objects.filter(object_id=str(machine.id), action__startswith="instance.guest.")
    assert [one.action for one in told.order_by("id")] == ["instance.guest.enrolled", "instance.guest.refused"]
    assert token not in str(list(told.values()))
    (note,) = Outbox.objects.filter(key__startswith="pass_reused")
    assert notices._WORDS[notices.Notice.PASS_REUSED](str(machine.id)) is not None
    assert token not in str(note.payload)


def test_a_machine_whose_answer_was_lost_may_ask_again_with_its_own_word_until_it_has_spoken(
    machine: Instance, token: str
) -> None:
    first = json.loads(fetch(machine, token).content)

    again = fetch(machine, token)
    assert json.loads(again.content)["vnc_key"] == first["vnc_key"]

    assert say(machine, first["report_token"], step="booted", ok=True).status_code == 204
    assert fetch(machine, token).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_of_ten_at_once_one_gets_the_secrets(machine: Instance, token: str) -> None:
    statuses: list[int] = []
    together = threading.Barrier(10)

    def ask(number: int) -> None:
        together.wait()
        statuses.append(fetch(machine, token, f"{CLAIM}-{number}").status_code)
        connection.close()

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for one in askers:
        one.start()
    for one in askers:
        one.join()

    assert sorted(statuses) == [200] + [403] * 9


def test_a_pass_is_for_its_own_machine(
    machine: Instance, token: str, member: User, flavour: Flavour, cloud: MemoryCloud
) -> None:
    other = Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=member, cloud=cloud))

    assert fetch(other, token).status_code == 401
    assert fetch(machine, issued(other)).status_code == 401
    assert fetch(machine, token).status_code == 200


def test_a_pass_that_was_not_used_in_time_is_refused(machine: Instance, token: str) -> None:
    GuestPass.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    answer = fetch(machine, token)

    assert (answer.status_code, json.loads(answer.content)["code"]) == (403, "pass_expired")


def test_passes_that_nobody_used_are_not_kept_for_ever(machine: Instance, token: str) -> None:
    before = GuestPass.objects.filter(instance=machine).count()
    long_ago = timezone.now() - 3 * guest_reports.PASS_LIFE
    GuestPass.objects.filter(instance=machine).update(expires_at=long_ago)
    GuestPass.objects.filter(token_hash=hashlib.sha256(token.encode()).hexdigest()).update(used_at=long_ago)

    issued(machine)

    assert before > 1
    assert GuestPass.objects.filter(instance=machine).count() == 2


def test_a_machine_made_anew_has_a_pass_of_its_own_and_the_old_one_is_dead(machine: Instance, token: str) -> None:
    reporting = reporter_of(machine, token)
    unused = issued(machine)
    newest = issued(machine)

    assert say(machine, reporting, step="booted", ok=True).status_code == 204
    assert fetch(machine, newest).status_code == 200
    assert fetch(machine, unused).status_code == 403
    assert say(machine, reporting, step="booted", ok=True).status_code == 401


def test_a_deleted_machine_fetches_and_says_nothing(
    machine: Instance, token: str, owner: User, cloud: MemoryCloud
) -> None:
    reporting = reporter_of(machine, token)
    unused = issued(machine)
    Instance.objects.filter(id=machine.id).update(deleted_at=timezone.now(), desktop_secret="")

    assert fetch(machine, unused).status_code == 401
    assert say(machine, reporting, step="booted", ok=True).status_code == 401


def test_a_token_that_was_only_drawn_opens_nothing(machine: Instance) -> None:
    assert fetch(machine, guest_reports.draw(machine.id, attempt=1)).status_code == 401


@pytest.mark.parametrize("token", ["", "made-up", "a:b:c", "x" * 501, "é"])
def test_a_made_up_token_is_refused_and_asks_no_table(
    machine: Instance, token: str, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        answers = [
            post("secrets", machine.id, token, {"claim": CLAIM}),
            post("reports", machine.id, token, {"step": "booted", "ok": True}),
            post("secrets", uuid4(), token, b"{{{"),
        ]

    assert {answer.status_code for answer in answers} == {401}


def test_neither_token_does_the_others_work(machine: Instance, token: str) -> None:
    assert say(machine, token, step="booted", ok=True).status_code == 401

    reporting = reporter_of(machine, token)
    assert fetch(machine, reporting).status_code == 401


def test_tokens_outlive_a_change_of_the_machines_keys(machine: Instance, token: str, settings: Any) -> None:
    from dataclasses import replace

    from cryptography.fernet import Fernet

    keys = (Fernet.generate_key().decode(), *settings.ENVIRONMENT.machine_keys)
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, machine_keys=keys)

    assert fetch(machine, token).status_code == 200


@pytest.mark.parametrize("claim", ["", "short", "with a blank in it, which is not a word at all", "é" * 40, "a" * 129])
def test_a_word_that_could_be_guessed_or_is_none_is_refused_and_uses_up_nothing(
    machine: Instance, token: str, claim: str
) -> None:
    assert fetch(machine, token, claim).status_code == 400
    assert fetch(machine, token).status_code == 200


def test_reading_the_door_changes_nothing(machine: Instance, token: str) -> None:
    for path in ("secrets", "reports"):
        answer = Client().get(f"/api/v1/guest/{machine.id}/{path}/", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 405

    assert set(GuestPass.objects.values_list("used_at", "claim_hash")) == {(None, "")}


def test_a_session_opens_nothing_here(machine: Instance, owner: User, browse_as: Any) -> None:
    answer = browse_as(owner).post(f"/api/v1/guest/{machine.id}/secrets/", {"claim": CLAIM}, "application/json")

    assert answer.status_code == 401


def test_what_a_machine_says_is_its_last_word_for_each_thing(machine: Instance, token: str) -> None:
    reporting = reporter_of(machine, token)
    away = {"step": "mounts", "ok": False, "subject": "/data/a", "text": "the server did not answer"}

    for report in ({"step": "booted", "ok": True}, {"step": "mounts", "ok": True, "subject": "/data/b"}, away):
        assert say(machine, reporting, **report).status_code == 204
    assert said_of(machine) == {
        ("booted", "", True, ""),
        ("mounts", "/data/b", True, ""),
        ("mounts", "/data/a", False, "the server did not answer"),
    }

    say(machine, reporting, step="mounts", ok=True, subject="/data/a")
    assert ("mounts", "/data/a", True, "") in said_of(machine)

    say(machine, reporting, step="booted", ok=True)
    assert said_of(machine) == {("booted", "", True, "")}


def test_hostile_text_is_one_short_line_and_too_many_things_are_not_kept(machine: Instance, token: str) -> None:
    reporting = reporter_of(machine, token)
    text = "<script>\x1b[31m\r\n\u202e{{ 7 * 7 }}"

    assert say(machine, reporting, step="mounts", ok=False, subject="/data/a\nb", text=text).status_code == 204
    for number in range(guest_reports.MOST_SUBJECTS + 5):
        assert say(machine, reporting, step="mounts", ok=False, subject=f"/data/{number}").status_code == 204

    assert ("mounts", "/data/a b", False, "<script> [31m {{ 7 * 7 }}") in said_of(machine)
    assert len(said_of(machine)) == guest_reports.MOST_SUBJECTS


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"step": "booted", "ok": "true"}, 400),
        ({"step": "dancing", "ok": True}, 400),
        ({"step": "booted"}, 400),
        ({"step": "booted", "ok": True, "admin": True}, 400),
        ({"step": "booted", "ok": True, "text": "x" * (TEXT + 1)}, 400),
        ({"step": "booted", "ok": True, "text": "x" * 5000}, 413),
        (b'{"step": "\\ud800", "ok": true}', 400),
        (b'{"step": "booted", "ok": true, "\\ud800": 1}', 400),
        (b"[" * 2000, 400),
        (b"\xff", 400),
    ],
)
def test_what_is_no_report_is_refused(
    machine: Instance, token: str, body: Mapping[str, Any] | bytes, status: int
) -> None:
    reporting = reporter_of(machine, token)

    assert post("reports", machine.id, reporting, body).status_code == status
    assert said_of(machine) == set()


def test_a_machine_that_calls_too_often_is_told_so_and_others_are_not(
    machine: Instance, token: str, member: User, cloud: MemoryCloud
) -> None:
    reporting = reporter_of(machine, token)
    other = Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=member, cloud=cloud))
    others = reporter_of(other, issued(other))

    statuses = [
        say(machine, reporting, step="booted", ok=True).status_code for _ in range(guest_reports.CALLS_A_MINUTE + 1)
    ]

    assert set(statuses[:-1]) == {204}
    assert statuses[-1] == 429
    assert say(other, others, step="booted", ok=True).status_code == 204


def test_saying_the_same_again_writes_and_announces_nothing(
    machine: Instance, token: str, django_assert_num_queries: Any
) -> None:
    said = [Report(step=Step.NETWORK, ok=True)]

    assert guest_reports.hear(machine.id, said, heard="network")
    assert not guest_reports.hear(machine.id, said, heard="network")


def test_a_machine_whose_data_is_missing_is_never_shown_as_ready(
    machine: Instance, token: str, owner: User, browse_as: Any
) -> None:
    reporting = reporter_of(machine, token)
    browser = browse_as(owner)
    assert "The machine is ready" in browser.get(f"/machines/{machine.id}/").content.decode()

    away = {"step": "mounts", "subject": "/data/a<b>", "text": "the server did not answer"}
    say(machine, reporting, ok=False, **away)

    page = browser.get(f"/machines/{machine.id}/").content.decode()
    assert "Desktop ready, but /data/a&lt;b&gt; is not mounted: the server did not answer" in page
    assert "The machine is ready" not in page
    assert "tone-good" not in page
    home = browser.get("/").content.decode()
    assert "/data/a&lt;b&gt; is not mounted" in home
    told = browser.get(f"/api/v1/instances/{machine.id}/").json()
    assert told["state_words"] == "Ready, but not all of it"
    assert [(one["step"], one["subject"]) for one in told["faults"]] == [("mounts", "/data/a<b>")]

    say(machine, reporting, ok=True, step="mounts", subject="/data/a<b>")
    assert "The machine is ready" in browser.get(f"/machines/{machine.id}/").content.decode()


def test_the_steps_of_a_start_are_the_machines_own_when_it_tells_them(
    owner: User, flavour: Flavour, image: Image, limit: Limit
) -> None:
    cloud = machines.memory_cloud(Desktop(host="127.0.0.1", port=9))  # nobody answers there: it boots
    launched = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner)
    machine = machines.settle(cloud, launched.instance_id, steps=4)
    reporting = reporter_of(machine, issued(machine))

    def steps() -> dict[str, tuple[bool, bool, str]]:
        view = access.instance_for(owner, machine.id)
        return {one.key: (one.done_at is not None, one.current, one.fault) for one in view.progress}

    assert steps()["booting"] == (False, True, "")
    say(machine, reporting, step="booted", ok=True)
    assert steps()["booting"] == (True, False, "")
    assert steps()["network"] == (False, True, "")
    say(machine, reporting, step="network", ok=True, subject="https://visa")
    say(machine, reporting, step="mounts", ok=False, subject="/data/a", text="the server denies access")
    assert steps()["data"] == (False, False, "/data/a is not mounted: the server denies access")
    assert steps()["desktop"] == (False, True, "")


def test_a_silent_machine_is_heard_on_its_console(owner: User, flavour: Flavour, image: Image, limit: Limit) -> None:
    cloud = machines.memory_cloud(Desktop(host="127.0.0.1", port=9))
    launched = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner)
    machine = machines.settle(cloud, launched.instance_id, steps=4)
    cloud.printed[machine.id] = "\n".join(
        f"visa-report: {json.dumps(one)}"
        for one in (
            {"step": "booted", "ok": True},
            {"step": "network", "ok": False, "subject": "https://visa", "text": "its name is not known"},
        )
    )

    machines.settle(cloud, machine.id, steps=1)
    assert said_of(machine) == set()

    Instance.objects.filter(id=machine.id).update(step_since=timezone.now() - 2 * guest_reports.SILENCE)
    machines.settle(cloud, machine.id, steps=1)

    view = access.instance_for(owner, machine.id)
    (network,) = [one for one in view.progress if one.key == "network"]
    assert network.fault == "the machine does not reach https://visa: its name is not known"


def test_support_reads_the_end_of_a_console_and_its_owner_does_not(
    machine: Instance, owner: User, support: User, browse_as: Any, cloud: MemoryCloud
) -> None:
    cloud.printed[machine.id] = "[  OK  ] Started <b>everything</b>.\x1b[0m"
    path = f"/machines/{machine.id}/"
    browser = browse_as(support)
    assert "Read the console" not in browse_as(owner).get(path).content.decode()
    assert browse_as(owner).post(f"{path}console/").status_code == 403

    browser.post(f"{path}console/")
    assert "It is being read" in browser.get(path).content.decode()
    machines.settle(cloud, machine.id, steps=1)

    page = browser.get(path).content.decode()
    assert "[ OK ] Started &lt;b&gt;everything&lt;/b&gt;. [0m" in page
    assert "everything" not in browse_as(owner).get(path).content.decode()
    assert AuditEvent.objects.filter(action="instance.console", actor=str(support.public_id)).count() == 1

    ConsoleExcerpt.objects.update(read_at=timezone.now() - timedelta(minutes=16))
    assert "everything" not in browser.get(path).content.decode()
    assert guest_reports.forget_consoles() == 1
    assert ConsoleExcerpt.objects.get().text == ""
