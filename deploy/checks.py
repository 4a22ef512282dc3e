"""`deploy/test`: format, lint, contracts, types, templates, migrations, deployment check, all tests, the demo's path.

Every step runs, also after one has failed; what it said is shown only then. The last line counts tests and steps alike.
"""

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as Xml
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.processes import ROOT

LOGS = ROOT / ".visa" / "log"
BIN = Path(sys.prefix) / "bin"
READING = {"DJANGO_SETTINGS_MODULE": "tests.typed_settings"}
#: a facility's platform, as far as the deployment check looks
FACILITY = READING | {"VISA_CLOUD_KIND": "openstack", "VISA_CLOUD_NAME": "facility", "VISA_CLOUD_NETWORK": "machines"}
CODE = ("visa", "quotas", "experiments", "instances", "deploy", "tests", "manage.py")


@dataclass(frozen=True)
class Check:
    """One command that ends with 0 where all is well."""

    words: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


CHECKS = (
    Check("Format", [f"{BIN}/ruff", "format", "--check", "."]),
    Check("Lint", [f"{BIN}/ruff", "check", "."]),
    Check("Import contracts", [f"{BIN}/lint-imports"], READING),
    Check("Types", [f"{BIN}/mypy", *CODE], READING),
    Check("Templates", [f"{BIN}/djlint", "templates", "--check", "--lint"]),
    Check(
        "Migrations",
        [sys.executable, "-W", "ignore::RuntimeWarning", "manage.py", "makemigrations", "--check", "--dry-run"],
        READING,
    ),
    Check("Deployment check", [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"], FACILITY),
)
DEMO = Check("deploy/demo --check", [sys.executable, "-m", "deploy.demo_run", "--check"])


@dataclass
class Count:
    """Tests and steps, together."""

    passed: int = 0
    failed: int = 0

    def line(self, words: str, seconds: float, *, passed: int, failed: int) -> None:
        self.passed += passed
        self.failed += failed
        print(f"  {words:<44} {seconds:6.1f} s  {'FAILED' if failed else 'ok'}", flush=True)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours without a platform's variables, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VISA_", "DJANGO_"))}
    return kept | dict(more)


def check(one: Check, count: Count) -> None:
    """Run one check to its end."""
    began = time.monotonic()
    log = LOGS / f"{one.words.lower().replace(' ', '-').replace('/', '-')}.log"
    with log.open("wb") as written:
        done = subprocess.run(
            one.command,
            cwd=ROOT,
            env=environment(one.environment),
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    bad = done.returncode != 0
    count.line(one.words, time.monotonic() - began, passed=not bad, failed=bad)
    if bad:
        print(log.read_text(encoding="utf-8", errors="replace")[-4000:], flush=True)


def run_tests(words: str, options: Sequence[str], count: Count, more: Mapping[str, str] | None = None) -> None:
    """Run pytest; every test counts for itself."""
    began = time.monotonic()
    results = LOGS / f"{words.lower().replace(' ', '-')}.xml"
    results.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--junitxml={results}",
        "-o",
        "faulthandler_timeout=180",
        *options,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(more or {}), check=False)
    passed = failed = 0
    if results.exists():
        for suite in Xml.parse(results).getroot().iter("testsuite"):  # noqa: S314 - written by our own pytest
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0)) + int(suite.get("skipped", 0))
            failed += bad
            passed += max(int(suite.get("tests", 0)) - bad, 0)
    if done.returncode and not failed:
        failed = 1  # it ended before it could count: a broken import, or no test at all
    count.line(words, time.monotonic() - began, passed=passed, failed=failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/test", description="Sets up and runs everything that is checked.")
    parser.add_argument("--openstack", action="store_true", help="the tests that need a real OpenStack, and only those")
    parser.add_argument(
        "--faults", nargs="*", metavar="F04", help="the matrix of faults before a real OpenStack: all, or those named"
    )
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    count = Count()
    if asked.openstack:
        from deploy import openstack_checks

        openstack_checks.run(count)
    elif asked.faults is not None:
        from deploy import faults

        faults.run(asked.faults, count)
    else:
        for one in CHECKS:
            check(one, count)
        # a file stays with one process, which has a PostgreSQL, a Redis and, for the journeys, a platform of its own
        run_tests(
            "Tests",
            ["-m", "not openstack", "--numprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"],
            count,
        )
        check(DEMO, count)
    print(f"{count.passed} passed, {count.failed} failed", flush=True)
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
