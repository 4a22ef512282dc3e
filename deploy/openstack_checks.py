"""`deploy/test --openstack`: all that needs a real OpenStack, before one whose guests boot, then before one of fakes.

One cloud runs at a time (they use the same ports). A cloud that ran before runs again at the end.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from deploy import checks, demo_openstack
from deploy.checks import Check, Count
from deploy.processes import ROOT, Missing
from deploy.steps import step

GUESTS = Path(os.environ.get("VISA_OPENSTACK_STATE", "/var/lib/visa-openstack"))
FAKE = GUESTS.with_name(f"{GUESTS.name}-fake")
#: what booting can change; the rest of Nova is the same for both kinds, and emulated guests would take an hour for it
BOOTED = ["tests/borders/test_openstack.py", "-k", "lives_from or answer_is_lost"]
JOURNEY = Check(
    "deploy/demo --cloud openstack --check",
    [sys.executable, "-m", "deploy.demo_run", "--cloud", "openstack", "--check"],
    {"VISA_OPENSTACK_STATE": str(GUESTS)},
)
#: what tests/faults and tests/benchmarks need to be told of the cloud
TOLD = {"VISA_TEST_OPENSTACK": str(FAKE)}
#: a few faults of the matrix, and a short form of each command about scale, which judges what no slow machine decides
SHORT = (
    Check("Faults, a few of them", [sys.executable, "-m", "tests.faults", "--fast"], TOLD),
    *(
        Check(words, [sys.executable, "-m", f"tests.benchmarks.{name}", "--short"], TOLD)
        for words, name in (
            ("Drivers killed at random", "kills"),
            ("Redis emptied while machines are made", "flush"),
            ("A course begins", "herd"),
            ("Settled machines watched", "watching"),
            ("Launches against allowances", "quota"),
            ("Time added to a launch", "added_time"),
        )
    ),
)


def runs(state: Path) -> bool:
    """Whether this cloud's Keystone is there."""
    for path in (state / "run").glob("*.pid"):
        try:
            if Path(f"/proc/{int(path.read_text())}").exists():
                return True
        except (OSError, ValueError):
            continue
    return False


def down(state: Path, *options: str) -> None:
    command = [str(ROOT / "deploy" / "openstack" / "down"), *options]
    subprocess.run(command, env=os.environ | {"VISA_OPENSTACK_STATE": str(state)}, capture_output=True, check=False)


def _up(words: str, state: Path, options: list[str], count: Count) -> bool:
    """Whether this cloud is up now; where not, that is one failure."""
    began = time.monotonic()
    try:
        demo_openstack.up(options, step, state=state)
    except Missing as error:
        print(error, flush=True)
        count.line(f"OpenStack, {words}", time.monotonic() - began, passed=0, failed=1)
        return False
    return True


def _test(words: str, state: Path, tests: list[str], count: Count) -> None:
    environment = {"VISA_TEST_OPENSTACK": str(state)}
    checks.run_tests(f"Tests with OpenStack, {words}", ["-m", "openstack and not guests", *tests], count, environment)


def _guests(count: Count) -> None:
    if _up("guests", GUESTS, [], count):
        _test("guests", GUESTS, BOOTED, count)
        checks.check(JOURNEY, count)


def _fakes(count: Count) -> None:
    """The tests before a cloud with small pages, which have to be turned; faults and scale with pages as Nova's own:
    on pages of three, what was deleted lately takes a score of them.
    """
    if _up("fake guests", FAKE, ["--fake", "2"], count):
        _test("fake guests", FAKE, [], count)
    down(FAKE)
    if _up("fake guests, large pages", FAKE, ["--fake", "2", "--pages", "1000"], count):
        for one in SHORT:
            checks.check(one, count)


def run(count: Count) -> None:
    """Both kinds, one after the other."""
    if os.geteuid() != 0:
        print("An OpenStack of our own is brought up by root only: run this as root.", flush=True)
        count.failed += 1
        return
    before = runs(GUESTS)
    down(FAKE)
    _guests(count)
    down(GUESTS)
    _fakes(count)
    down(FAKE, "--purge")
    if before:
        demo_openstack.up([], step, state=GUESTS)
