"""`manage.py doctor`: is all there that the platform needs? `--launch DOI`: does the whole way work?"""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from typing_extensions import override

from instances import doctor, rehearsal
from visa.errors import Refusal

WIDTH = 19


class Command(BaseCommand):
    help = "Examines database, Redis, workers, identity providers, cloud and mounts; exits 1 where something is wrong."
    requires_system_checks = ()  # the first examination makes them, and says what to do

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        names = ", ".join(doctor.EXAMINATIONS)
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
        parser.add_argument("--only", nargs="+", metavar="NAME", default=(), help=f"only these: {names}")
        parser.add_argument("--launch", metavar="DOI", help="launch this dataset as nobody, look at it, delete it")
        parser.add_argument("--patience", type=float, default=900.0, help="seconds a launch may take (900)")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        if options["launch"]:
            self._launch(options["launch"], patience=options["patience"], as_json=options["json"])
            return
        unknown = set(options["only"]) - set(doctor.EXAMINATIONS)
        if unknown:
            names = ", ".join(doctor.EXAMINATIONS)
            raise CommandError(f"There is no examination called {', '.join(sorted(unknown))}; there are: {names}.")
        findings = []
        for finding in doctor.examine(options["only"]):
            findings.append(finding)
            if not options["json"]:
                self._tell(finding)
        bad = [one for one in findings if not one.ok]
        if options["json"]:
            told = [{"name": one.name, "ok": one.ok, "sentence": one.sentence, "to_do": one.to_do} for one in findings]
            self.stdout.write(json.dumps({"ok": not bad, "findings": told}, indent=1, ensure_ascii=False))
        else:
            self.stdout.write(f"{len(findings) - len(bad)} well, {len(bad)} ill")
        if bad:
            sys.exit(1)

    def _tell(self, finding: doctor.Finding) -> None:
        mark = self.style.SUCCESS("ok  ") if finding.ok else self.style.ERROR("FAIL")
        self.stdout.write(f"{mark} {finding.name:<{WIDTH}} {finding.sentence}")
        if finding.to_do:
            self.stdout.write(f"     {'':<{WIDTH}} {finding.to_do}")
        self.stdout.flush()

    def _launch(self, doi: str, *, patience: float, as_json: bool) -> None:
        steps: list[dict[str, object]] = []
        failure = ""
        try:
            for step in rehearsal.synthetic_launch(doi, patience=patience):
                steps.append({"seconds": round(step.seconds, 2), "words": step.words})
                if not as_json:
                    self.stdout.write(f"{step.seconds:7.1f} s  {step.words}")
                    self.stdout.flush()
        except Refusal as refusal:
            failure = f"{refusal.message} {refusal.way_out}".strip()
        except rehearsal.LaunchFailed as error:
            failure = str(error)
        if as_json:
            told = {"ok": not failure, "steps": steps, "failure": failure}
            self.stdout.write(json.dumps(told, indent=1, ensure_ascii=False))
        elif failure:
            self.stdout.write(self.style.ERROR(f"  FAIL     {failure}"))
        if failure:
            sys.exit(1)
