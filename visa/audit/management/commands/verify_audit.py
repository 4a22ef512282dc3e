"""`manage.py verify_audit`: is the trail as it was sealed? Names the first row that is not, and then exits 1."""

from argparse import ArgumentParser
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from typing_extensions import override

from visa.audit import verification

SHOWN = 20


class Command(BaseCommand):
    help = "Compares the audit trail with its chain of hashes; exits 1 and names the first row that was tampered with."

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--since", type=date.fromisoformat, metavar="DAY", help="only what was sealed since (UTC)")
        parser.add_argument(
            "--heads", type=Path, metavar="FILE", help="heads told to the outside: heads.jsonl, or a log"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        heads = None
        if options["heads"]:
            try:
                with options["heads"].open(encoding="utf-8") as lines:
                    heads = verification.heads_in(lines)
            except (OSError, UnicodeDecodeError, verification.NoSuchHeads) as error:
                raise CommandError(f"{options['heads']} cannot be read: {error}", returncode=2) from error
        verdict = verification.verify(since=options["since"], heads=heads)
        waiting = f"; {verdict.waiting} wait for their seal" if verdict.waiting else ""
        if verdict.first is None:
            against = f" and {len(heads)} heads" if heads is not None else ""
            self.stdout.write(
                self.style.SUCCESS(f"{verdict.rows} rows in order, to row {verdict.number}{against}{waiting}")
            )
            return
        for fault in verdict.faults[:SHOWN]:
            self.stdout.write(self.style.ERROR(fault.words))
        if len(verdict.faults) > SHOWN:
            self.stdout.write(f"and {len(verdict.faults) - SHOWN} more")
        raise CommandError(f"The audit trail is broken; first: {verdict.first.words}{waiting}")
