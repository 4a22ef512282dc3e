"""`manage.py erase_audit PERSON`: which personal texts the trail holds of somebody; with --apply, erase them."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from typing_extensions import override

from visa.audit import names, trail


class Command(BaseCommand):
    help = (
        "Counts the addresses and typed words that the audit trail holds of one person, and erases them for good with "
        "--apply. The rows stay, with who did what and when, and so does their chain."
    )

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("person", help="the person's public id, as People in the administration shows it")
        parser.add_argument(
            "--about",
            action="store_true",
            help="also what others did to or for this person: their words may name them; the others' addresses go too",
        )
        parser.add_argument("--apply", action="store_true", help="erase them; without it nothing is changed")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        person, about = _public_id(options["person"]), bool(options["about"])
        name = names.of("person", [person]).get(person)
        if name is None and not trail.knows(person):
            raise CommandError(f"Nobody has the public id {person}, and no row of the audit trail names it.")
        with transaction.atomic():
            held = trail.held_of(person, about=about)
            if held.texts and options["apply"]:
                trail.erase(held.digests, of=person, about=about)
        whose = f"{name} ({person})" if name else person
        if not held.texts:
            self.stdout.write(f"{whose}: the audit trail holds nothing that could be erased.")
            return
        self.stdout.write(
            f"{whose}: {held.texts} rows with personal texts, {held.addresses} with an address, "
            f"{held.words} with typed words; from {held.first:%Y-%m-%d} to {held.last:%Y-%m-%d}."
        )
        if options["apply"]:
            self.stdout.write("Erased. Copies of the database that were made before still hold them.")
        else:
            self.stdout.write("Nothing was changed. Run again with --apply to erase them for good.")


def _public_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        message = f"“{text}” is no public id: People in the administration shows each person's. Nothing was changed."
        raise CommandError(message) from error
