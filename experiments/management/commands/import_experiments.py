"""`manage.py import_experiments FILE`: what a file would change; with --apply, change it. The shape: docs/import.md."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from typing_extensions import override

from experiments.actions import Change, Confirm, Difference, Step, import_records, preview
from experiments.catalogue.document import LARGEST, DocumentFaults, read

_SIGNS = {Step.ADDED: "+", Step.CHANGED: "~", Step.WITHDRAWN: "-", Step.HELD: "!"}


class Command(BaseCommand):
    """Prints the difference; applies it only when told to."""

    help = "Compare a file of experiments and datasets with what is known, and bring it in with --apply."

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="the JSON document, or - for standard input")
        parser.add_argument("--apply", action="store_true", help="write the changes; without it nothing is changed")
        parser.add_argument(
            "--confirm-opening",
            action="store_true",
            help="also take changes that open data earlier than last known, or let a DOI name other data",
        )
        parser.add_argument(
            "--confirm-withdrawals",
            action="store_true",
            help="also withdraw what is no longer listed, and let teams become empty",
        )

    @override
    def handle(self, *args: object, **options: object) -> None:
        confirmed = {
            confirm
            for confirm, name in (
                (Confirm.OPENING, "confirm_opening"),
                (Confirm.WITHDRAWALS, "confirm_withdrawals"),
            )
            if options[name]
        }
        apply = bool(options["apply"])
        try:
            records = read(_bytes(str(options["file"])), now=timezone.now())
            found = (import_records if apply else preview)(records, confirmed=confirmed)
        except DocumentFaults as error:
            lines = "\n".join(f"  {fault.place}: {fault.message}" for fault in error.faults)
            count = "1 fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
            raise CommandError(f"Nothing was imported: {count} in {options['file']}\n{lines}") from error
        if options["verbosity"] != 0 or found.of(Step.HELD):
            self.stdout.write("\n".join(_lines(found, apply=apply)))


def _bytes(name: str) -> bytes:
    """The file's bytes, at most one more than is read anyway."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(LARGEST + 1)
        with Path(name).open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}. Nothing was imported.") from error


def _line(change: Change) -> str:
    text = f"{_SIGNS[change.step]} {change.kind} {change.key}"
    if change.names:
        text += f"  ({', '.join(change.names)})"
    if change.step is Step.HELD:
        text += f"  held back: {change.why}"
    return text


def _lines(found: Difference, *, apply: bool) -> list[str]:
    lines = [_line(change) for change in found.changes]
    counts = ", ".join(f"{len(found.of(step))} {step.value}" for step in Step)
    lines.append(f"{counts}, {found.unchanged} unchanged.")
    for confirm in Confirm:
        held = [change for change in found.of(Step.HELD) if change.needs is confirm]
        if held:
            lines.append(
                f"{len(held)} held back; look at each, then run again with --confirm-{confirm.value} to take them."
            )
    lines.append("Done." if apply else "Nothing was changed. Run again with --apply to change it.")
    return lines
