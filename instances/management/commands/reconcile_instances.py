"""`manage.py reconcile_instances`: rows beside the cloud, as a report; `--apply` sweeps, `--release` ends holds."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand
from typing_extensions import override

from instances import reconciliation, strays, sweeps
from instances.cloud.connect import connect
from instances.cloud.protocol import CloudError
from instances.reconciliation import Comparison
from instances.strays import Kind, Stray

AGREES, DIFFERS, HELD, SILENT, BUSY = 0, 1, 3, 4, 5


class Command(BaseCommand):
    help = (
        "Compares the machines here with everything the cloud has under our tag, and changes nothing. Exits 0 where "
        "both agree, 1 where they differ, 3 where sweeps are held, 4 where the cloud does not answer in full, 5 where "
        "another sweep is at work."
    )

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--apply",
            action="store_true",
            help="sweep now: delete what age, quarantine, brakes and holds allow, whatever VISA_SWEEP says",
        )
        parser.add_argument(
            "--release", action="store_true", help="end all holds: this database is the right one for this cloud"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        if options["release"]:
            self.stdout.write(f"{sweeps.release_all()} holds released")
        cloud = connect()
        try:
            if options["apply"]:
                comparison = reconciliation.sweep(cloud, deleting=True)
            else:
                comparison = reconciliation.compare(cloud)
        except CloudError as error:
            self.stderr.write(f"The cloud does not answer in full, so nothing was compared: {error.service}: {error}")
            sys.exit(SILENT)
        if comparison is None:
            self.stderr.write("Another sweep is at work. Try again in a moment.")
            sys.exit(BUSY)
        self._tell(comparison, applied=options["apply"])
        if comparison.assessment.brake is strays.Brake.HOLD:
            sys.exit(HELD)
        sys.exit(AGREES if comparison.agrees else DIFFERS)

    def _tell(self, comparison: Comparison, *, applied: bool) -> None:
        counts, found = comparison.books.counts, comparison.assessment
        self.stdout.write(
            f"{counts.rows} machines here; in the cloud {counts.things[Kind.SERVER]} servers, "
            f"{counts.things[Kind.PORT]} ports, {counts.things[Kind.VOLUME]} volumes"
        )
        self._lines("strays", [self._stray(one, comparison.books.at, applied=applied) for one in found.strays])
        self._lines(
            "machines without their server",
            [f"{one.instance_id}  {one.name}  server {one.server_id}" for one in comparison.ghosts],
        )
        doubts = [f"{strays.DOUBTS[doubt]} ({told})" for doubt, told in found.doubts.items()]
        self._lines("holds", self._holds(doubts))
        if found.brake is not None:
            self.stdout.write(f"nothing is deleted: {strays.BRAKES[found.brake]}")
        for one in sweeps.alarms():
            self.stdout.write(f"{one.words} (since {one.since:%Y-%m-%d %H:%M} UTC)")

    @staticmethod
    def _holds(doubts: Iterable[str]) -> list[str]:
        standing = [f"{one.why} ({one.detail})" for one in sweeps.report().holds]
        return [*standing, *(one for one in doubts if one not in standing)]

    @staticmethod
    def _stray(one: Stray, now: datetime, *, applied: bool) -> str:
        verdict = one.sight.verdict.value
        if one.order:
            verdict = "deleted" if applied else "would be deleted"
        age, seen = _minutes(now - one.thing.made_at), _minutes(now - one.sight.first_seen_at)
        return (
            f"{one.thing.kind:<6}  {one.thing.id}  {one.thing.name}  {verdict}: {one.why} Made {age}, seen {seen} ago."
        )

    def _lines(self, what: str, lines: list[str]) -> None:
        self.stdout.write(f"{len(lines)} {what}")
        for line in lines:
            self.stdout.write(f"  {line}")


def _minutes(age: timedelta) -> str:
    return f"{int(age.total_seconds() // 60)} min"
