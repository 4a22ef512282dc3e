"""`deploy/test --faults [F04 ...]`: every fault of the matrix on a whole site, before an OpenStack of fakes.

One line per fault with its time (`python -m tests.faults`). A cloud that ran before runs again at the end.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence

from deploy import demo_openstack, openstack_checks
from deploy.checks import Count, environment
from deploy.openstack_checks import FAKE, GUESTS, TOLD
from deploy.processes import ROOT, Missing
from deploy.steps import step


def run(names: Sequence[str], count: Count) -> None:
    """All faults, or those named."""
    if os.geteuid() != 0:
        print("An OpenStack of our own is brought up by root only: run this as root.", flush=True)
        count.failed += 1
        return
    before = openstack_checks.runs(GUESTS)
    if before:
        openstack_checks.down(GUESTS)
    began = time.monotonic()
    try:
        demo_openstack.up(["--fake", "2", "--pages", "1000"], step, state=FAKE)
    except Missing as error:
        print(error, flush=True)
        count.line("OpenStack of fakes", time.monotonic() - began, passed=0, failed=1)
        return
    _matrix(names, count)
    if not names:
        print("Where the network is the project's own, and ports have addresses of our choice:", flush=True)
        _matrix(["--ports", "--network", "visa-own"], count)
    if before:
        openstack_checks.down(FAKE)
        demo_openstack.up([], step, state=GUESTS)


def _matrix(asked: Sequence[str], count: Count) -> None:
    """The matrix in a process of its own; its lines are shown as they come, and counted."""
    command = [sys.executable, "-m", "tests.faults", *asked]
    with subprocess.Popen(command, cwd=ROOT, env=environment(TOLD), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None  # noqa: S101 - asked for by PIPE
        told = False
        for line in running.stdout:
            print(line, end="", flush=True)
            if re.match(r"  F\d", line):
                told = True
                count.passed += line.rstrip().endswith("holds")
                count.failed += "BROKEN" in line
    if running.returncode and not (told and count.failed):
        count.failed += 1  # it ended before it could tell
