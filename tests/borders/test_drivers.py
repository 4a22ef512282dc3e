"""Who drives a machine: the worker or the reconciler, each alone, and nobody's death takes a desktop with it.

A platform of its own, because its processes are stopped and killed here.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest

from deploy import demo_check, demo_data
from deploy.demo_platform import DemoPlatform
from tests.processes import whole_platform

DATASET = demo_data.CHECKED
#: seconds; a start takes two or three, and the machine that tests is busy
PATIENCE = 90


@pytest.fixture(scope="module")
def platform() -> Iterator[DemoPlatform]:
    with whole_platform() as running:
        yield running


def launched(platform: DemoPlatform) -> tuple[demo_check.Visitor, str]:
    visitor = demo_check.Visitor(platform.url)
    return visitor, demo_check.launch(visitor, f"/launch/{DATASET.doi}")


def restart(platform: DemoPlatform) -> None:
    """Starts whatever of the platform's own processes is not running."""
    starts = {
        "worker": platform.start_worker,
        "beat": platform.start_beat,
        "reconciler": platform.start_reconciler,
        "web": platform.start_web,
    }
    for name, start in starts.items():
        if not platform.running[name].alive:
            start()


@pytest.mark.parametrize("stopped", [("worker", "beat"), ("reconciler",), ("worker", "beat", "Redis")])
def test_a_launch_reaches_its_desktop_and_its_end_with_either_driver_stopped(
    platform: DemoPlatform, stopped: tuple[str, ...]
) -> None:
    for name in stopped:
        platform.running[name].stop()

    visitor, machine = launched(platform)
    demo_check.until_active(visitor, machine, PATIENCE)
    demo_check.all_gone(visitor, machine, PATIENCE)

    if "Redis" in stopped:
        platform.start_redis()
    restart(platform)


def test_a_redis_that_hangs_holds_no_launch_up(platform: DemoPlatform) -> None:
    visitor, link = demo_check.Visitor(platform.url), f"/launch/{DATASET.doi}"
    page = demo_check.sign_in(visitor, demo_check.PERSON, back_to=link)
    form = demo_check.form_of(page, lambda form: "launch" in urljoin(page.url, form.action), "launch")
    os.kill(platform.running["Redis"].pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        answer = visitor.send(page, form)
        lasted = time.monotonic() - begun
        machine = answer.url.rstrip("/").rpartition("/")[2]

        # asked for and its page shown
        assert lasted < 2
        demo_check.until_active(visitor, machine, PATIENCE)
    finally:
        os.kill(platform.running["Redis"].pid, signal.SIGCONT)
    demo_check.all_gone(visitor, machine, PATIENCE)


def test_a_worker_goes_on_by_itself_after_redis_was_lost(platform: DemoPlatform) -> None:
    platform.running["reconciler"].stop()
    platform.running["Redis"].kill()
    platform.start_redis()

    visitor, machine = launched(platform)
    demo_check.until_active(visitor, machine, PATIENCE)
    demo_check.all_gone(visitor, machine, PATIENCE)
    restart(platform)


def test_a_desktop_outlives_every_process_of_the_platform_and_is_found_again(platform: DemoPlatform) -> None:
    visitor, machine = launched(platform)
    demo_check.until_active(visitor, machine, PATIENCE)
    asyncio.run(demo_check.work(visitor, machine, "echo kept > ~/kept; echo visa-check | xclip -selection clipboard"))

    for name in ("worker", "beat", "reconciler", "web"):
        platform.running[name].kill()
    restart(platform)

    assert demo_check.until_active(visitor, machine, PATIENCE)["id"] == machine
    told, _size = asyncio.run(
        demo_check.work(visitor, machine, 'printf "%s\\n" visa-check "$(cat ~/kept)" | xclip -selection clipboard')
    )
    assert told.split() == ["visa-check", "kept"]
    demo_check.all_gone(visitor, machine, PATIENCE)
