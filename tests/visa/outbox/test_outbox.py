"""What is put leaves once its change is committed, once per key; and what cannot leave waits, or is given up."""

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from visa.outbox import couriers, outbox, sending
from visa.outbox.couriers import Away, Hopeless, Refused
from visa.outbox.models import Outbox

KIND = "parcel"


class Carried:
    """What a courier was given, and what it is to answer: an exception, or what it says."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.answers: list[Exception | str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, key: str, payload: Mapping[str, object]) -> str:
        self.keys.append(key)
        self.meanwhile()
        answer = self.answers.pop(0) if self.answers else ""
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> Carried:
    courier = Carried()
    monkeypatch.setattr(couriers, "_couriers", {KIND: courier})
    return courier


def put(key: str = "one", **payload: str) -> None:
    with transaction.atomic():
        outbox.put(key=key, kind=KIND, payload=payload)


def make_due() -> None:
    Outbox.objects.filter(sent_at=None).update(due_at=Now() - timedelta(seconds=1))


def waits() -> float:
    """Seconds until the only thing is due again."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM outbox_outbox")
        return float(cursor.fetchone()[0])


@pytest.mark.django_db
def test_what_is_put_twice_under_one_key_leaves_once(carried: Carried) -> None:
    put("one", instance="a")
    put("one", instance="b")
    put("two")

    assert sending.send_due() == 2
    put("one")
    assert sending.send_due() == 0
    assert carried.keys == ["one", "two"]
    assert Outbox.objects.get(key="one").payload == {"instance": "a"}


@pytest.mark.django_db(transaction=True)
def test_what_is_put_in_a_change_that_fails_never_leaves(carried: Carried) -> None:
    def fail() -> None:
        with transaction.atomic():
            outbox.put(key="one", kind=KIND, payload={})
            raise LookupError

    with pytest.raises(LookupError):
        fail()

    assert sending.send_due() == 0
    assert carried.keys == []


@pytest.mark.django_db
def test_a_payload_is_ids_and_nothing_longer(carried: Carried) -> None:
    for payload in ({"text": "x" * 101}, {"many": ["a"]}):
        with pytest.raises(ValueError, match="more than ids"):
            outbox.put(key="one", kind=KIND, payload=payload)  # type: ignore[arg-type]  # on purpose

    assert not Outbox.objects.exists()


@pytest.mark.django_db
def test_what_was_refused_is_tried_again_later_and_later(carried: Carried) -> None:
    put()
    waited = []
    for _ in range(10):
        carried.answers = [Refused("not now")]
        make_due()
        assert sending.send_due() == 0
        waited.append(waits())

    make_due()
    assert sending.send_due() == 1
    assert len(carried.keys) == 11
    assert 4.5 < waited[0] <= 10
    assert 9.5 < waited[1] <= 20
    assert 440 < waited[-1] <= 900
    assert Outbox.objects.get().said == ""


@pytest.mark.django_db
def test_a_neighbour_that_is_away_is_asked_with_one_thing_at_a_time(carried: Carried) -> None:
    for number in range(20):
        put(f"thing {number}")
    carried.answers = [Away("nobody there")]

    assert sending.send_due() == 0
    assert carried.keys == ["thing 0"]
    make_due()
    assert sending.send_due() == 20


@pytest.mark.django_db
def test_what_will_never_be_taken_is_not_tried_again(carried: Carried) -> None:
    put()
    carried.answers = [Hopeless("no such person")]

    assert sending.send_due() == 1
    make_due()
    assert sending.send_due() == 0
    row = Outbox.objects.get()
    assert (row.given_up, row.said) == (True, "no such person")


@pytest.mark.django_db
def test_what_nobody_took_for_days_is_given_up(carried: Carried) -> None:
    put()
    Outbox.objects.update(made_at=Now() - sending.PATIENCE - timedelta(minutes=1))
    carried.answers = [Refused("still not"), Refused("still not")]

    sending.send_due()

    assert Outbox.objects.get().given_up
    make_due()
    sending.send_due()
    assert len(carried.keys) == 1


@pytest.mark.django_db
def test_a_courier_that_breaks_costs_the_others_nothing(carried: Carried) -> None:
    put("broken")
    put("sound")
    carried.answers = [LookupError("a fault of ours")]

    assert sending.send_due() == 1
    assert carried.keys == ["broken", "sound"]
    assert Outbox.objects.get(key="broken").said == "LookupError"


@pytest.mark.django_db
def test_a_kind_nobody_here_carries_waits_for_somebody_who_does(carried: Carried) -> None:
    with transaction.atomic():
        outbox.put(key="of a later release", kind="newer", payload={})

    assert sending.send_due() == 0
    row = Outbox.objects.get()
    assert (row.attempts, row.sent_at) == (0, None)


@pytest.mark.django_db
def test_what_a_courier_died_with_is_carried_when_its_lease_is_over(carried: Carried) -> None:
    put()
    died = sending.claim()
    assert died is not None

    assert sending.send_due() == 0
    Outbox.objects.update(lease_until=Now() - timedelta(seconds=1))
    assert sending.send_due() == 1
    assert carried.keys == ["one"]


@pytest.mark.django_db
def test_a_courier_that_comes_back_after_its_lease_changes_nothing(carried: Carried) -> None:
    """It was too slow, another one took over: the slow one's failure must not make a third try of what was sent."""
    put()
    carried.answers = [Refused("too late")]

    def another() -> None:
        carried.meanwhile = lambda: None
        carried.answers = []
        Outbox.objects.update(lease_until=Now() - timedelta(seconds=1))
        assert sending.send_due() == 1
        carried.answers = [Refused("too late")]

    carried.meanwhile = another
    assert sending.send_due() == 0

    row = Outbox.objects.get()
    assert row.sent_at is not None
    assert (row.said, len(carried.keys)) == ("", 2)


@pytest.mark.django_db(transaction=True)
def test_many_couriers_at_once_carry_each_thing_once(carried: Carried) -> None:
    for number in range(100):
        put(f"thing {number}")
    done: list[int] = []

    def work() -> None:
        try:
            done.append(sending.send_due(limit=200))
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sum(done) == 100
    assert sorted(carried.keys) == sorted(f"thing {number}" for number in range(100))


@pytest.mark.django_db
def test_what_was_sent_long_ago_is_forgotten_and_what_waits_is_not(carried: Carried) -> None:
    for key in ("old", "new", "waiting"):
        put(key)
    Outbox.objects.filter(key="old").update(sent_at=Now() - sending.REMEMBERED - timedelta(hours=1))
    Outbox.objects.filter(key="new").update(sent_at=Now() - sending.REMEMBERED + timedelta(hours=1))
    Outbox.objects.filter(key="waiting").update(made_at=Now() - timedelta(days=90))

    assert sending.forget_old() == 1
    assert set(Outbox.objects.values_list("key", flat=True)) == {"new", "waiting"}


@pytest.mark.django_db(transaction=True)
def test_the_loop_of_its_own_carries_and_stops(carried: Carried) -> None:
    put()
    stopping = threading.Event()
    carried.meanwhile = stopping.set
    loop = threading.Thread(target=sending.keep_sending, args=(stopping,))

    loop.start()
    loop.join(30)

    assert not loop.is_alive()
    assert carried.keys == ["one"]
    assert Outbox.objects.get().sent_at is not None
