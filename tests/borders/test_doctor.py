"""The doctor beside a whole platform in real processes: all well first, then each neighbour missed when it stops."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy import demo_platform, processes
from deploy.demo_platform import DemoPlatform
from deploy.processes import ROOT, wait_until
from tests.processes import whole_platform

OPEN = "10.5291/ILL-DATA.8-02-912"


@pytest.fixture(scope="module")
def ward() -> Iterator[DemoPlatform]:
    """A platform of this file's own: its parts are stopped."""
    with whole_platform() as platform:
        # The web answers; the others have been started a moment before, and may not have said anything yet.
        wait_until(lambda: _well(platform, ("Workers", "Timetable", "Reconciler")), platform.running["web"], seconds=90)
        yield platform


def doctor(platform: DemoPlatform, *options: str) -> tuple[int, dict[str, Any]]:
    """Its exit status, and what it says."""
    done = subprocess.run(
        [*demo_platform.PYTHON, "manage.py", "doctor", "--json", *options],
        cwd=ROOT,
        env=platform.variables("command"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout)


def findings(platform: DemoPlatform, *names: str) -> dict[str, dict[str, Any]]:
    _status, told = doctor(platform, "--only", *names) if names else doctor(platform)
    return {one["name"]: one for one in told["findings"]}


def test_all_is_well_beside_a_whole_platform(ward: DemoPlatform) -> None:
    status, told = doctor(ward)

    assert not [one for one in told["findings"] if not one["ok"]]
    assert (status, told["ok"]) == (0, True)


def test_lines_for_people_name_each_examination(ward: DemoPlatform) -> None:
    told = ward.run("manage.py", "doctor", "--only", "Database", "Migrations")

    assert [line.split()[:2] for line in told.splitlines()[:2]] == [["ok", "Database"], ["ok", "Migrations"]]
    assert told.splitlines()[-1] == "2 well, 0 ill"


def test_a_synthetic_launch_goes_the_whole_way_and_leaves_nothing(ward: DemoPlatform) -> None:
    status, told = doctor(ward, "--launch", OPEN)

    words = [step["words"] for step in told["steps"]]
    assert (status, told["failure"]) == (0, "")
    assert words[0] == "accepted"
    assert any("pictures come" in one for one in words)
    assert words[-1] == "gone"
    assert sorted(step["seconds"] for step in told["steps"]) == [step["seconds"] for step in told["steps"]]


def test_a_synthetic_launch_of_closed_data_says_why(ward: DemoPlatform) -> None:
    status, told = doctor(ward, "--launch", "10.5555/never-heard-of")

    assert status == 1
    assert told["failure"]
    assert not told["steps"]


#: processes that are stopped together, by the examination that alone misses each, and how each is started again
STOPPED: tuple[dict[str, tuple[str, Callable[[DemoPlatform], object]]], ...] = (
    {"Workers": ("worker", DemoPlatform.start_worker)},
    {
        "Timetable": ("beat", DemoPlatform.start_beat),
        "Reconciler": ("reconciler", DemoPlatform.start_reconciler),
        "Identity providers": ("The identity provider", DemoPlatform.start_identity_provider),
    },
)


@pytest.mark.parametrize("stopped", STOPPED, ids=lambda one: ", ".join(one))
def test_each_process_that_is_stopped_is_missed(
    ward: DemoPlatform, stopped: dict[str, tuple[str, Callable[[DemoPlatform], object]]]
) -> None:
    others = {"Workers", "Reconciler", "Redis"} - set(stopped)
    for name, _start in stopped.values():
        ward.running.pop(name).stop()
    try:
        told = findings(ward, *stopped, *others)
    finally:
        for _name, start_again in stopped.values():
            start_again(ward)

    assert {name: finding["ok"] for name, finding in told.items()} == {
        **dict.fromkeys(stopped, False),
        **dict.fromkeys(others, True),
    }
    assert all(told[name]["to_do"] for name in stopped)
    wait_until(lambda: _well(ward, tuple(stopped)), ward.running["web"], seconds=90)


def _well(platform: DemoPlatform, names: tuple[str, ...]) -> bool:
    return all(finding["ok"] for finding in findings(platform, *names).values())


def test_redis_that_is_stopped_is_missed(ward: DemoPlatform) -> None:
    ward.running["Redis"].stop()
    try:
        told = findings(ward, "Redis", "Workers", "Database")
    finally:
        ward.running["Redis"] = processes.start_redis(
            ward.directory / "redis", log=ward.directory / "log" / "redis.log"
        )

    assert {one: finding["ok"] for one, finding in told.items()} == {"Redis": False, "Workers": False, "Database": True}


def test_software_and_data_that_are_not_there_are_missed(ward: DemoPlatform) -> None:
    for name, place in (("Data", "data"), ("Software", "software")):
        there, away = ward.directory / place, ward.directory / f"{place}-away"
        there.rename(away)
        try:
            told = findings(ward, name)
        finally:
            away.rename(there)

        assert not told[name]["ok"]
        assert str(there) in told[name]["sentence"]


def test_a_database_that_is_stopped_is_missed_and_the_rest_is_told(ward: DemoPlatform) -> None:
    # Stopped and kept in the list: its address is still told to whoever starts.
    ward.running["PostgreSQL"].stop()
    try:
        told = findings(ward, "Database", "Migrations", "Machines", "Redis", "Identity providers", "Data")
    finally:
        place, log = ward.directory / "postgres", ward.directory / "log" / "postgres.log"
        ward.running["PostgreSQL"] = processes.start_postgres(place, log=log, durable=False)

    assert "does not answer" in told["Database"]["sentence"]
    assert told["Machines"]["to_do"] == "Mend the database first."
    assert {one: finding["ok"] for one, finding in told.items()} == {
        "Database": False,
        "Migrations": False,
        "Machines": False,
        "Redis": True,
        "Identity providers": True,
        "Data": True,
    }
