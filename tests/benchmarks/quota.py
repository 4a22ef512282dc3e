"""Launches against allowances, many at once: `python -m tests.benchmarks.quota`.

Eight processes send 10,000 launches through `actions.launch` for a few people, in sizes that bind in four dimensions,
and delete some of what they got, which ends through `provisioning.advance` and a cloud as ever. Two things must not
happen:

overshoot: somebody holds more than the limit. Told by the database itself: at each reservation a trigger adds up what
the person holds, under the lock that the reservation was made with. It does not ask the counter.

wrong refusal: somebody is refused although it would have fitted. Each value the counter ever had is kept, with a time;
a refusal is wrong where none of the values it can have met leaves too little.

`--control` reserves by counting first and inserting afterwards, to show that both are noticed.
"""

import argparse
import random
import sys
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks import ground

PEOPLE = 12
#: machines, cores, MiB, GPUs
LIMIT = (6, 16, 32_768, 2)
SIZES = {
    "even": (1, 2, 4096, 0),
    "cores": (1, 8, 2048, 0),
    "memory": (1, 1, 16_384, 0),
    "gpu": (1, 2, 2048, 1),
    "tiny": (1, 1, 512, 0),
}
#: how many of the machines are begun at the cloud before they are deleted; their keys take time that shows nothing here
MADE = 0.05
DIMENSIONS = ("machines", "cores", "memory_mib", "gpus")

ORACLE = """
create table seen_used (person text, machines int, cores int, memory_mib int, gpus int, at double precision);
create table seen_held (person text, machines int, cores int, memory_mib int, gpus int);
create function note_used() returns trigger language plpgsql as $$ begin
  insert into seen_used values (new.person, new.machines, new.cores, new.memory_mib, new.gpus,
    extract(epoch from clock_timestamp()));
  return null; end $$;
create function note_held() returns trigger language plpgsql as $$ begin
  insert into seen_held select new.person, sum(machines), sum(cores), sum(memory_mib), sum(gpus)
    from quotas_reservation where person = new.person;
  return null; end $$;
create trigger note_used after insert or update on quotas_allowance for each row execute function note_used();
create trigger note_held after insert on quotas_reservation for each row execute function note_held();
"""


@dataclass
class Said:
    """What one process has to tell: launches that were accepted, refusals as (person, size, from, to), failures."""

    accepted: int = 0
    deleted: int = 0
    refused: list[tuple[str, str, float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def _prepare(processes: int, attempts: int) -> list[int]:
    """People, sizes, software and datasets enough; returns the people's ids."""
    from django.db import connection

    from tests import factories

    people = [factories.make_user(name=f"Person {number}") for number in range(PEOPLE)]
    for slug, (_machines, cores, memory, gpus) in SIZES.items():
        factories.make_flavour(slug=slug, cores=cores, memory_mib=memory, gpus=gpus)
    factories.make_image()
    factories.make_limit(machines=LIMIT[0], cores=LIMIT[1], memory_mib=LIMIT[2], gpus=LIMIT[3])
    for number in range(processes * _datasets(processes, attempts)):
        factories.make_dataset(doi=f"10.5555/quota-{number}")
    with connection.cursor() as cursor:
        cursor.execute(ORACLE)
    return [person.pk for person in people]


def _datasets(processes: int, attempts: int) -> int:
    """Datasets one process launches on: always more than it has machines of one person at once."""
    return min(40, max(8, attempts // processes))


def _count_first(asked: Any, *, holder: Any, subject: Any) -> None:
    """How it goes wrong: look what is used, then take. For `--control` alone."""
    from django.db.models import F

    from quotas import allowances
    from quotas.models import Allowance, Reservation

    standing = allowances.standing_of(subject)
    if standing.shortfalls(asked):
        raise allowances.refusal(standing, asked)
    Allowance.objects.bulk_create([Allowance(person=subject.person)], ignore_conflicts=True)
    values = {name: getattr(asked, name) for name in DIMENSIONS}
    Allowance.objects.filter(person=subject.person).update(**{name: F(name) + values[name] for name in DIMENSIONS})
    Reservation.objects.create(holder=holder, person=subject.person, **values)


def _work(number: int, processes: int, attempts: int, people: list[int], seed: int) -> Said:
    """One process's share."""
    from instances import actions, provisioning
    from instances.actions import Launch
    from instances.cloud.protocol import Desktop
    from quotas.allowances import QuotaExceeded
    from tests import machines
    from visa.accounts.models import User

    chance = random.Random(seed * 1000 + number)  # noqa: S311 - spreads load
    cloud = machines.memory_cloud(Desktop(host="127.0.0.1", port=9))
    mine: dict[tuple[int, int], Any] = {}  # by person and dataset
    said = Said()
    rows = {person.pk: person for person in User.objects.filter(pk__in=people)}
    datasets = _datasets(processes, attempts)
    for _ in range(attempts // processes):
        person = rows[chance.choice(people)]
        free = [one for one in range(datasets) if (person.pk, one) not in mine]
        dataset, size = chance.choice(free), chance.choice(list(SIZES))
        doi = f"10.5555/quota-{number * datasets + dataset}"
        began = time.time()
        try:
            made = actions.launch(Launch(doi=doi, flavour=size), by=person)
        except QuotaExceeded:
            said.refused.append((str(person.public_id), size, began, time.time()))
        except Exception as error:  # noqa: BLE001 - told at the end
            said.failed.append(f"launch: {type(error).__name__}: {error}"[:300])
        else:
            assert not made.resumed
            said.accepted += 1
            mine[(person.pk, dataset)] = made.instance_id
            if chance.random() < MADE:
                provisioning.advance(cloud, made.instance_id)
        while mine and chance.random() < 0.45:
            key = chance.choice(list(mine))
            try:
                _delete(cloud, mine.pop(key), rows[key[0]])
            except Exception as error:  # noqa: BLE001 - told at the end
                said.failed.append(f"delete: {type(error).__name__}: {error}"[:300])
            else:
                said.deleted += 1
    return said


def _delete(cloud: Any, instance_id: Any, person: Any) -> None:
    """The person's wish, and the worker's steps until the allowance is given back."""
    from datetime import timedelta

    from django.db.models.functions import Now

    from instances import actions, provisioning
    from instances.models import Instance

    actions.delete(instance_id, by=person)
    for _ in range(20):
        provisioning.advance(cloud, instance_id)
        row = Instance.objects.filter(id=instance_id)
        if row.exclude(deleted_at=None).exists():
            return
        row.update(due_at=Now() - timedelta(seconds=1))
    raise AssertionError(f"{row.values().get()} is not deleted after twenty steps")


def _overshoots() -> list[str]:
    from django.db import connection

    over = " or ".join(f"{name} > {limit}" for name, limit in zip(DIMENSIONS, LIMIT, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(f"select * from seen_held where {over}")  # noqa: S608 - our own numbers
        return [str(row) for row in cursor.fetchall()]


def _wrong(refused: list[tuple[str, str, float, float]]) -> list[str]:
    """Refusals for which no value that the counter can have had at that time leaves too little."""
    from django.db import connection

    history: dict[str, list[tuple[float, tuple[int, ...]]]] = {}
    with connection.cursor() as cursor:
        cursor.execute("select person, at, machines, cores, memory_mib, gpus from seen_used order by at")
        for person, at, *values in cursor.fetchall():
            history.setdefault(person, []).append((at, tuple(values)))
    wrong = []
    for person, size, began, ended in refused:
        values = history.get(person, [])
        # A value is written down just before it can be seen, and is seen until just after the next is written down.
        first = max(bisect_left(values, (began,)) - 2, 0)
        met = [value for at, value in values[first:] if at <= ended]
        if not any(_too_much(value, size) for value in met):
            wrong.append(f"{person} was refused {size} when the counter said {met}")
    return wrong


def _too_much(used: tuple[int, ...], size: str) -> bool:
    return any(have + asked > limit and asked for have, asked, limit in zip(used, SIZES[size], LIMIT, strict=True))


def _differences() -> list[str]:
    """People whose counter is not the sum of what they hold."""
    from django.db.models import Sum

    from quotas.models import Allowance, Reservation

    told = []
    for row in Allowance.objects.all():
        held = Reservation.objects.filter(person=row.person).aggregate(**{name: Sum(name) for name in DIMENSIONS})
        if any((held[name] or 0) != getattr(row, name) for name in DIMENSIONS):
            told.append(f"{row.person}: {held} held, the counter says {row.used}")
    return told


def main() -> int:
    """Prints the figures; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quota", description=__doc__)
    parser.add_argument("--launches", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="800 launches")
    parser.add_argument("--control", action="store_true", help="count first, then insert: overshoots must be found")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    attempts = 800 if asked.short else asked.launches
    ground.lay()
    people = _prepare(asked.processes, attempts)
    if asked.control:
        from quotas import allowances

        allowances.reserve = _count_first
    began = time.monotonic()
    said = ground.at_once(
        lambda number: _work(number, asked.processes, attempts, people, asked.seed), range(asked.processes)
    )
    took = time.monotonic() - began
    refused = [one for each in said for one in each.refused]
    failed = [one for each in said for one in each.failed]
    overshoots, wrong, differences = _overshoots(), _wrong(refused), _differences()
    accepted = sum(each.accepted for each in said)
    total = accepted + len(refused) + len(failed)
    print(f"{total:,} launches by {asked.processes} processes for {PEOPLE} people in {took:.0f} s, seed {asked.seed}:")
    print(f"  accepted {accepted:,}, refused {len(refused):,}, deleted {sum(each.deleted for each in said):,}")
    print(f"  {total / took:.0f} launches per second, with what else was done")
    for words, found in (
        ("overshoots", overshoots),
        ("wrong refusals", wrong),
        ("counters that are not the sum of what is held", differences),
        ("failures", failed),
    ):
        print(f"  {words}: {len(found)}")
        for line in found[:5]:
            print(f"    {line}")
    return 1 if overshoots or wrong or differences or failed else 0


if __name__ == "__main__":
    sys.exit(main())
