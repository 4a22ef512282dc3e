"""Reserving and giving back: limits hold under concurrency, and a no carries its numbers."""

import threading
from uuid import uuid4

import pytest
from django.db import connection

from quotas import allowances
from quotas.allowances import QuotaExceeded
from quotas.arithmetic import Resources
from quotas.entitlement import Subject
from quotas.models import Allowance, Limit, Reservation
from tests.factories import make_limit

SOMEBODY = Subject(person="4e0c", roles=frozenset())
SMALL = Resources(machines=1, cores=2, memory_mib=1024)


@pytest.mark.django_db
def test_what_is_reserved_is_used_and_what_is_given_back_is_free_again() -> None:
    make_limit(cores=4)
    holder = uuid4()

    allowances.reserve(SMALL, holder=holder, subject=SOMEBODY)
    assert allowances.standing_of(SOMEBODY).used == SMALL

    allowances.release(holder)
    allowances.release(holder)
    assert allowances.standing_of(SOMEBODY).used == Resources()


@pytest.mark.django_db
def test_a_refusal_names_what_was_asked_and_what_is_left() -> None:
    make_limit(machines=10, cores=3)
    allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)

    with pytest.raises(QuotaExceeded) as refused:
        allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)

    assert refused.value.detail == {
        "shortfalls": [{"dimension": "cores", "asked": 2, "limit": 3, "used": 2, "left": 1}]
    }
    assert refused.value.message == "This asks for 2 cores; 1 of your 3 are left."
    assert Reservation.objects.count() == 1


@pytest.mark.django_db
def test_without_a_limit_nobody_may_have_anything() -> None:
    with pytest.raises(QuotaExceeded):
        allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)


@pytest.mark.django_db
def test_a_limit_changed_by_an_administrator_counts_at_the_next_request() -> None:
    limit = make_limit(cores=1)
    with pytest.raises(QuotaExceeded):
        allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)

    limit.cores = 2
    limit.save()

    allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)


@pytest.mark.django_db
def test_a_limit_lowered_below_what_is_used_refuses_more_and_takes_nothing_away() -> None:
    limit = make_limit(cores=8)
    allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)

    limit.cores = 1
    limit.save()

    assert allowances.standing_of(SOMEBODY).used.cores == 2
    with pytest.raises(QuotaExceeded):
        allowances.reserve(SMALL, holder=uuid4(), subject=SOMEBODY)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("subject", "cores"),
    [
        (Subject(person="plain", roles=frozenset()), 4),
        (Subject(person="plain", roles=frozenset({"support"})), 16),
        (Subject(person="special", roles=frozenset({"support"})), 2),
    ],
)
def test_a_person_has_their_own_limit_or_the_largest_of_their_roles(subject: Subject, cores: int) -> None:
    make_limit(cores=4)
    make_limit(kind=Limit.Kind.ROLE, key="support", cores=16)
    make_limit(kind=Limit.Kind.PERSON, key="special", cores=2)

    assert allowances.limits_of(subject).cores == cores


@pytest.mark.django_db(transaction=True)
def test_launches_at_the_same_moment_cannot_share_the_last_core() -> None:
    make_limit(machines=100, cores=10, memory_mib=10**6)
    asked = Resources(machines=1, cores=3, memory_mib=1)
    answers: list[bool] = []
    together = threading.Barrier(8)

    def one() -> None:
        together.wait()
        for _ in range(5):
            try:
                allowances.reserve(asked, holder=uuid4(), subject=SOMEBODY)
                answers.append(True)
            except QuotaExceeded:
                answers.append(False)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers.count(True) == 3
    assert len(answers) == 40
    assert Allowance.objects.get().used == Resources(machines=3, cores=9, memory_mib=3)
    assert Reservation.objects.count() == 3
